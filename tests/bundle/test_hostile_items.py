"""An items.h5 made to harm, with a manifest that matches it: every job refuses it in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss import export_index
from mecoq_faiss.bundle.folder import ITEMS, read_items
from mecoq_faiss.jobs.info import describe
from tests.bounded import refusal
from tests.bundle.hostile import N, jobs, old_bundle, sign

SECRET = "what another file holds"
TEXT = h5py.string_dtype()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["paths"], file["codes"] = np.array([SECRET] * N, object), np.full((N, 2), 7, np.uint8)
        file["ids"], file["labels"] = np.arange(N), np.zeros(N, np.int64)
    (tmp_path / "secret.bin").write_bytes(bytes(range(256)) * 8)
    return old_bundle(tmp_path)


def test_the_bundle_as_it_is(bundle: Path) -> None:
    for job in jobs(bundle).values():
        job()


def in_place_of(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    def alter(file: h5py.File) -> None:
        if name in file:
            del file[name]
        make(file)

    return alter


def put(name: str, **options: object) -> Callable[[h5py.File], None]:
    return in_place_of(name, lambda file: file.create_dataset(name, **options))  # type: ignore[arg-type]


def link(name: str, target: object) -> Callable[[h5py.File], None]:
    return in_place_of(name, lambda file: file.__setitem__(name, target))


def virtual(name: str, shape: tuple[int, ...], dtype: object) -> Callable[[h5py.File], None]:
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("secret.h5", name, shape, dtype)
    return in_place_of(name, lambda file: file.create_virtual_dataset(name, layout))


def outside(name: str, shape: tuple[int, ...], dtype: str, size: int) -> Callable[[h5py.File], None]:
    return put(name, shape=shape, dtype=dtype, external=[("secret.bin", 0, size)])


def one_text_many_times(file: h5py.File) -> None:
    """60 references to one string of 20 MB: a file that grows by 20 MB and would be read as 1.2 GB."""
    references = np.frombuffer(raw_references(file, "x" * 20_000_000) * N, np.uint8)
    offset = file["paths"].id.get_offset()
    file.close()
    with open(file_name[0], "r+b") as raw:
        raw.seek(offset)
        raw.write(references.tobytes())


file_name: list[str] = []


def raw_references(file: h5py.File, text: str) -> bytes:
    """The 16 bytes by which HDF5 refers to a string that it has stored."""
    file_name[:] = [file.filename]
    one = file.create_dataset("one", shape=(1,), dtype=TEXT)
    one[0] = text
    file.flush()
    with open(file.filename, "rb") as raw:
        raw.seek(one.id.get_offset())
        return raw.read(16)


CASES: dict[str, Callable[[h5py.File], object]] = {
    **{f"an external link as {name}": link(name, h5py.ExternalLink("secret.h5", f"/{name}"))
       for name in ("codes", "ids", "paths", "labels")},
    "an external link to itself": link("paths", h5py.ExternalLink("items.h5", "/paths")),
    "a soft link": link("paths", h5py.SoftLink("/codes")),
    "a soft link to nothing": link("ids", h5py.SoftLink("/nowhere")),
    "a soft link in a circle": link("ids", h5py.SoftLink("/ids")),
    "virtual codes": virtual("codes", (N, 2), "u1"),
    "virtual ids": virtual("ids", (N,), "i8"),
    "virtual paths": virtual("paths", (N,), TEXT),
    "codes outside": outside("codes", (N, 2), "u1", 120),
    "ids outside": outside("ids", (N,), "i8", 480),
    "codes outside, more than there are": outside("codes", (2**31, 2), "u1", 2**32),
    "a group as codes": in_place_of("codes", lambda file: file.create_group("codes")),
    "a group as paths": in_place_of("paths", lambda file: file.create_group("paths/deep")),
    "a datatype as ids": link("ids", np.dtype("i8")),
    "no codes": in_place_of("codes", lambda file: None),
    "no ids": in_place_of("ids", lambda file: None),
    "no paths": in_place_of("paths", lambda file: None),
    "a scalar as codes": put("codes", data=np.uint8(3)),
    "nothing as codes": put("codes", data=h5py.Empty("u1")),
    "a scalar as paths": put("paths", data="one"),
    "codes of one axis": put("codes", data=np.zeros(N, np.uint8)),
    "codes of three axes": put("codes", data=np.zeros((N, 2, 1), np.uint8)),
    "float codes": put("codes", data=np.zeros((N, 2), np.float32)),
    "signed codes": put("codes", data=np.zeros((N, 2), np.int8)),
    "codes of text": put("codes", data=np.array([["a", "b"]] * N, object), dtype=TEXT),
    "compound codes": put("codes", data=np.zeros((N, 2), [("a", "u1"), ("b", "u1")])),
    "references as paths": put("paths", shape=(N,), dtype=h5py.ref_dtype),
    "arrays as paths": put("paths", shape=(N,), dtype=h5py.vlen_dtype(np.uint8)),
    "numbers as paths": put("paths", data=np.arange(N)),
    "paths of two axes": put("paths", data=np.array([["a", "b"]] * N, object), dtype=TEXT),
    "float ids": put("ids", data=np.arange(N, dtype=np.float64)),
    "short ids": put("ids", data=np.arange(N, dtype=np.int32)),
    "ids of another byte order": put("ids", data=np.arange(N), dtype=">i8"),
    "ids of two axes": put("ids", data=np.zeros((N, 1), np.int64)),
    "labels of floats": put("labels", data=np.zeros(N)),
    "labels of three axes": put("labels", data=np.zeros((N, 1, 1), np.uint8)),
    "fewer codes": put("codes", data=np.zeros((N - 1, 2), np.uint8)),
    "more ids": put("ids", data=np.arange(N + 1)),
    "fewer paths": put("paths", data=np.array(["a"] * (N - 1), object), dtype=TEXT),
    "fewer labels": put("labels", data=np.arange(N - 1)),
    "no items": in_place_of("codes", lambda file: file.create_dataset("codes", shape=(0, 2), dtype="u1")),
    "chunked codes": put("codes", data=np.zeros((N, 2), np.uint8), chunks=(10, 2)),
    "compressed paths": put("paths", data=np.array(["a"] * N, object), dtype=TEXT, chunks=(10,), compression="gzip"),
    "2e9 compressed codes": put("codes", shape=(2 * 10**9, 2), dtype="u1", chunks=(2**20, 2), compression="gzip"),
    "2e9 compressed ids": put("ids", shape=(2 * 10**9,), dtype="i8", chunks=(2**20,), compression="gzip"),
    "2e9 codes that were never written": put("codes", shape=(2 * 10**9, 2), dtype="u1"),
    "2e9 paths that were never written": put("paths", shape=(2 * 10**9,), dtype=TEXT),
    "codes that were never written": put("codes", shape=(N, 2), dtype="u1"),
    "2**62 ids": put("ids", shape=(2**59,), dtype="i8"),
    "wide codes": put("codes", shape=(N, 2**40), dtype="u1"),
    "a text named again and again": one_text_many_times,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_hostile_items(bundle: Path, case: str) -> None:
    with h5py.File(bundle / ITEMS, "r+") as file:
        CASES[case](file)
    sign(bundle)
    for name, job in jobs(bundle).items():
        assert SECRET not in refusal(job, str(bundle / ITEMS)), name
    assert not bundle.with_name("new").exists() and not list(bundle.parent.glob("new*"))
    refusal(lambda: read_items(bundle / ITEMS), str(bundle / ITEMS)) if case != "no items" else None
    if "link" in case:
        refusal(lambda: describe(bundle / ITEMS), str(bundle / ITEMS))


@pytest.mark.parametrize("size", [0, 7, 100, 2048, 5000])
def test_a_file_that_is_cut(bundle: Path, size: int) -> None:
    content = (bundle / ITEMS).read_bytes()
    (bundle / ITEMS).write_bytes(content[:size])
    sign(bundle)
    for job in jobs(bundle).values():
        refusal(job, str(bundle / ITEMS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nbits", "four"), ("nbits", [4, 8]), ("nbits", 5), ("nbits", h5py.Empty("i8")),
        ("class_names", 3), ("class_names", [1, 2]), ("class_names", [["a", "b"]]),
    ],
)  # fmt: skip
def test_attributes_of_another_kind(bundle: Path, name: str, value: object) -> None:
    with h5py.File(bundle / ITEMS, "r+") as file:
        file.attrs[name] = value
    refusal(lambda: read_items(bundle / ITEMS), str(bundle / ITEMS))


@pytest.mark.parametrize("key", ["[" * 100_000, "3", "[1]", "null", [1, 2], h5py.Empty("i8"), '{"model": NaN}'])
def test_keys_of_another_kind(bundle: Path, key: object) -> None:
    """Of a file that says of itself that it is not this model's."""
    with h5py.File(bundle / ITEMS, "r+") as file:
        file.attrs.create("key", key) if not isinstance(key, str) else file.attrs.create("key", key[:60_000])
    refusal(jobs(bundle)["export-index"], str(bundle / ITEMS))


def test_only_what_belongs_there_is_copied(bundle: Path) -> None:
    with h5py.File(bundle / ITEMS, "r+") as file:
        file["more"], file.attrs["more"] = h5py.ExternalLink("secret.h5", "/paths"), SECRET
        file["codes"].attrs["more"] = SECRET
    sign(bundle)
    for job in jobs(bundle).values():
        job()
    with h5py.File(bundle.with_name("new") / ITEMS) as file:
        assert set(file) == {"codes", "ids", "paths", "labels"} and not file["codes"].attrs
        assert set(file.attrs) == {"key", "class_names", "D", "nbits", "sha256"}


def test_paths_that_are_no_utf8(bundle: Path) -> None:
    with h5py.File(bundle / ITEMS, "r+") as file:
        file["paths"][...] = np.array([b"caf\xe9"] * N, object)
    assert set(read_items(bundle / ITEMS)["paths"]) == {r"caf\xe9"}


@pytest.mark.parametrize(
    "codes", [np.full((N, 2), 16, np.uint8), np.zeros((N, 3), np.uint8), np.zeros((N, 0), np.uint8)]
)
def test_codes_that_the_model_cannot_have_made(bundle: Path, codes: np.ndarray) -> None:
    with h5py.File(bundle / ITEMS, "r+") as file:
        del file["codes"]
        file["codes"] = codes
    sign(bundle)
    for name in ("tune", "export-index"):
        refusal(jobs(bundle)[name], "codes")
    assert not list(bundle.parent.glob("new*"))


def test_ids_of_an_export_are_not_taken_from_another_file(bundle: Path) -> None:
    ids = bundle.with_name("ids.h5")
    for target in (h5py.ExternalLink("secret.h5", "/ids"), h5py.SoftLink("/ids")):
        with h5py.File(ids, "w") as file:
            file["ids"] = target
        refusal(
            lambda: export_index(bundle, None, bundle.with_name("new"), codes=bundle / ITEMS, ids=ids),
            f"{ids} holds no ids",
        )
    with h5py.File(ids, "w") as file:
        file["ids"] = np.arange(N) + 5
    export_index(bundle, None, bundle.with_name("new"), codes=bundle / ITEMS, ids=ids)
    assert read_items(bundle.with_name("new") / ITEMS)["ids"].tolist() == list(range(5, N + 5))
