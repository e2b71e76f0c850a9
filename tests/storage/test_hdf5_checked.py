"""Datasets that are read of files from elsewhere, and those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.storage.hdf5 import SHA256, create_hdf5, damaged_dataset, read_checksums
from mecoq_faiss.storage.hdf5_checked import Wanted, open_checked, read_texts
from mecoq_faiss.storage.shards import map_array, read_key
from tests.bounded import refusal

X = np.arange(12, dtype=np.int64).reshape(6, 2)
NAMES = np.array(["a", "bü", "", "d", "e", "f"], object)
WANTED = {"x": Wanted((2,), ("i8",)), "names": Wanted((1,), ("text",)), "y": Wanted((1,), (), required=False)}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with create_hdf5(tmp_path / "a.h5") as file:
        file["x"], file["names"], file["more"] = X, NAMES, 3
    return tmp_path / "a.h5"


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def read(path: Path, **options: object) -> dict[str, np.ndarray]:
    with open_checked(path, WANTED, **options) as found:  # type: ignore[arg-type]
        return {name: read_texts(dataset) if name == "names" else dataset[:] for name, dataset in found.items()}


def test_the_wanted_datasets_by_path_and_open(written: Path) -> None:
    with open(written, "rb") as file, open_checked(file, WANTED) as found:
        assert list(found) == ["x", "names"]
        np.testing.assert_array_equal(found["x"], X)
    found_again = read(written, rows=6)
    np.testing.assert_array_equal(found_again["x"], X)
    assert found_again["names"].tolist() == NAMES.tolist()
    edit(written, lambda file: file.create_dataset("y", data=np.ones(6, ">f4"), chunks=(2,), compression="gzip"))
    np.testing.assert_array_equal(read(written, own=False)["y"], np.ones(6))
    assert "y is chunked, which mecoq-faiss does not write" in refusal(lambda: read(written), str(written))


def test_other_layouts_of_other_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "b.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file.create_dataset("x", data=X, chunks=(4, 2), maxshape=(None, 2), compression="lzf", shuffle=True)
        file.create_dataset("names", data=NAMES, dtype=h5py.string_dtype(), chunks=(2,), compression="gzip")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((6,))
        h5py.h5d.create(file.id, b"y", h5py.h5t.NATIVE_INT32, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.arange(6, dtype=np.int32)
        )
    found = read(path, own=False)
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["y"], np.arange(6))
    assert found["names"].tolist() == NAMES.tolist()


def test_errors_of_the_caller_are_its_own(written: Path) -> None:
    for error in (ValueError("mine"), KeyError("mine"), OSError(28, "mine")):
        with pytest.raises(type(error), match="mine") as caught, open_checked(written, WANTED):
            raise error
        assert caught.value is error


def test_the_message_names_file_fault_and_mend(written: Path) -> None:
    edit(written, lambda file: file.move("x", "z"))
    with pytest.raises(ValueError, match=f"^{written} has no dataset 'x': do that$"):
        read(written, mend="do that")
    edit(written, lambda file: file.create_dataset("x", data=X[:4].astype(np.int32)))
    with pytest.raises(ValueError, match=r": x is i4 of shape \(4, 2\), expected i8 of 2 axes: write or copy it again"):
        read(written)
    edit(written, lambda file: [file.pop("x"), file.create_dataset("x", data=X[:4])])
    with pytest.raises(ValueError, match=": names has 6 rows, expected 4: "):
        read(written)
    with pytest.raises(ValueError, match=": x has 4 rows, expected 6: "):
        read(written, rows=6)
    with pytest.raises(FileNotFoundError):
        read(written.with_name("none.h5"))
    (written.with_name("text.h5")).write_text("hello")
    with pytest.raises(ValueError, match=r"text\.h5 is not a fruit, or damaged \(.*\): eat$"):
        read(written.with_name("text.h5"), what="a fruit", mend="eat")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((6,), "i8")
    layout[:] = h5py.VirtualSource("other.h5", "y", (6,), "i8")
    file.create_virtual_dataset("y", layout)


HUGE = 2 * 10**9
CASES: dict[str, Callable[[h5py.File], object]] = {
    "soft link": lambda file: file.__setitem__("y", h5py.SoftLink("/x")),
    "external link": lambda file: file.__setitem__("y", h5py.ExternalLink("other.h5", "/y")),
    "virtual": virtual,
    "external": lambda file: file.create_dataset("y", (6,), "i8", external=[("other.bin", 0, 48)]),
    "group": lambda file: file.create_group("y"),
    "datatype": lambda file: file.__setitem__("y", np.dtype("f4")),
    "scalar": lambda file: file.__setitem__("y", 3.0),
    "null": lambda file: file.__setitem__("y", h5py.Empty("f4")),
    "compressed": lambda file: file.create_dataset("y", (HUGE,), "i8", chunks=(1 << 20,), compression="gzip"),
    "chunks": lambda file: file.create_dataset("y", (HUGE,), "i8", chunks=(1 << 28,)),
    "unwritten": lambda file: file.create_dataset("y", (HUGE,), "i8"),
    "unwritten texts": lambda file: file.create_dataset("y", (HUGE,), h5py.string_dtype()),
    "references": lambda file: file.create_dataset("y", (6,), h5py.ref_dtype),
    "regions": lambda file: file.create_dataset("y", (6,), h5py.regionref_dtype),
    "arrays": lambda file: file.create_dataset("y", (6,), h5py.vlen_dtype(np.int64)),
    "compound": lambda file: file.create_dataset("y", (6,), [("a", "i4"), ("b", "f4")]),
    "subarrays": lambda file: file.create_dataset("y", (6,), "(2,)i4"),
    "opaque": lambda file: file.create_dataset("y", data=np.array([b"a"] * 6, "V1")),
    "complex rows": lambda file: file.create_dataset("y", data=np.zeros((6, 6, 6, 6, 6), "c8")),
    "length": lambda file: file.create_dataset("y", data=np.zeros(5)),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(written: Path, case: str, own: bool) -> None:
    with h5py.File(written.with_name("other.h5"), "w") as file:
        file["y"] = np.arange(6)
    (written.with_name("other.bin")).write_bytes(bytes(48))
    edit(written, CASES[case])
    assert ": y " in refusal(lambda: read(written, own=own), str(written))
    if case != "length":
        refusal(lambda: map_array(written, "y"), str(written))
    if case not in ("length", "scalar", "compound", "opaque", "subarrays", "complex rows"):
        edit(written, lambda file: file.attrs.__setitem__(SHA256, '{"x": "", "y": "0"}'))
        assert damaged_dataset(written) == "x"
        edit(written, lambda file: file.attrs.__setitem__(SHA256, '{"y": "0"}'))
        assert damaged_dataset(written) == "y"


@pytest.mark.parametrize("name", ["", "/", ".", "..", "/x", "x/../x", "\0"])
def test_checksums_of_what_is_no_dataset(written: Path, name: str) -> None:
    import json

    edit(written, lambda file: file.attrs.__setitem__(SHA256, json.dumps({name: "0"})))
    assert damaged_dataset(written) == name


@pytest.mark.parametrize("value", ["[" * 50_000, '[["a"]]', "[[1, 2]]", [1, 2], ["a", "b"], h5py.Empty("i8")])
def test_attributes_of_another_kind(written: Path, value: object) -> None:
    edit(written, lambda file: [file.attrs.__setitem__(name, value) for name in (SHA256, "key")])
    with h5py.File(written) as file:
        assert read_checksums(file) == {}
    assert read_key(written) is None and damaged_dataset(written) is None


def test_a_key_is_a_dict(written: Path) -> None:
    for text, key in (('{"a": 1}', {"a": 1}), ("3", None), ("null", None), ('"a"', None), ("[1]", None)):
        with h5py.File(written, "r+") as file:
            file.attrs["key"] = text
        assert read_key(written) == key


def test_chunks_that_say_what_they_cannot_hold(tmp_path: Path) -> None:
    """Gzip of zeros makes 1,000 bytes one; an array of few written chunks is refused, a whole one is not."""
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file.create_dataset("whole", data=np.zeros(10**7), chunks=(10**5,), compression="gzip")
        few = file.create_dataset("few", (10**7,), "f8", chunks=(10**5,), compression="gzip")
        few[: 10**6] = np.zeros(10**6)
    assert len(map_array(tmp_path / "z.h5", "whole")) == 10**7
    assert "few claims (10000000,), 80,000,000 bytes" in refusal(lambda: map_array(tmp_path / "z.h5", "few"), "z.h5")
