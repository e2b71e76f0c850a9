"""An index that is not the one its bundle describes is refused in one line, before anything is searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from mecoq_faiss.bundle.folder import INDEX, ITEMS, pinned, read_items
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.index import build_index, describe_index, load_index, read_codebooks, read_codes
from mecoq_faiss.index.consistent import check_consistent
from tests.bounded import refusal
from tests.bundle.hostile import N, altered_manifest, jobs, old_bundle, sign

IP = faiss.METRIC_INNER_PRODUCT
RNG = np.random.default_rng(0)


def parts(bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """Codebooks (2, 16, 4) and codes (60, 2)."""
    index = faiss.read_index(str(bundle / INDEX))
    return read_codebooks(index), read_codes(index)


def trained(index: Any, n: int = N) -> Any:
    x = RNG.normal(size=(300, index.d)).astype(np.float32)
    index.train(x)
    index.add(x[:n])
    return index


def own_ids(ids: np.ndarray) -> Callable[[Path], Any]:
    return lambda bundle: build_index(*parts(bundle), "pq", ids=ids)


def edited(kind: str, edit: Callable[[Any], None]) -> Callable[[Path], Any]:
    def make(bundle: Path) -> Any:
        index: Any = build_index(*parts(bundle), kind, nlist=4 if kind == "ivfpq" else None)
        edit(index)
        return index

    return make


def move_ids(index: Any) -> None:
    for number in range(index.nlist):
        faiss.rev_swig_ptr(index.invlists.get_ids(number), index.invlists.list_size(number))[:] += 1


def one_id_twice(index: Any) -> None:
    number = int(np.argmax([index.invlists.list_size(number) for number in range(index.nlist)]))
    faiss.rev_swig_ptr(index.invlists.get_ids(number), 2)[:] = 5


def a_negative_id(index: Any) -> None:
    number = int(np.argmax([index.invlists.list_size(number) for number in range(index.nlist)]))
    faiss.rev_swig_ptr(index.invlists.get_ids(number), 1)[0] = -(2**40)


def wrapped_twice(bundle: Path) -> Any:
    inner: Any = build_index(*parts(bundle), "pq", ids=np.arange(N))
    inner.ntotal = 0  # FAISS wraps empty ones only
    outer: Any = faiss.IndexIDMap2(inner)
    outer.ntotal = inner.ntotal = N
    faiss.copy_array_to_vector(np.arange(N)[::-1].copy(), outer.id_map)
    outer.referenced_objects = [inner]
    return outer


def too_few_ids(bundle: Path) -> Any:
    index: Any = build_index(*parts(bundle), "pq", ids=np.arange(N))
    faiss.copy_array_to_vector(np.arange(N - 1), index.id_map)
    return index


def refined_by_others(bundle: Path) -> Any:
    base = build_index(*parts(bundle), "pqfs")
    exact = trained(faiss.IndexPQ(8, 2, 4, IP), N)
    index: Any = faiss.IndexRefine(base, exact)
    exact.reset()
    exact.add(np.zeros((N - 7, 8), np.float32))
    index.referenced_objects = [base, exact]
    return index


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flat": (lambda _: trained(faiss.IndexFlatIP(8)), "IndexFlatIP is no product-quantized index"),
    "flat of another d": (lambda _: trained(faiss.IndexFlatL2(5)), "is no product-quantized index"),
    "a graph": (lambda _: trained(faiss.IndexHNSWFlat(8, 4)), "IndexHNSWFlat is no product-quantized index"),
    "scalars": (lambda _: trained(faiss.index_factory(8, "SQ8")), "is no product-quantized index"),
    "residuals": (lambda _: trained(faiss.index_factory(8, "IVF4,PQ2x4np", IP)), "quantize residuals"),
    "another kind": (edited("pqfs", lambda _: None), "its kind is pqfs, the manifest says pq"),
    "lists": (edited("ivfpq", lambda _: None), "its kind is ivfpq, the manifest says pq"),
    "another d": (lambda _: trained(faiss.IndexPQ(16, 2, 4, IP)), "its d is 16, the manifest says 8"),
    "another M": (lambda _: trained(faiss.IndexPQ(8, 4, 4, IP)), "its M is 4, the manifest says 2"),
    "another nbits": (lambda _: trained(faiss.IndexPQ(8, 2, 8, IP)), "its nbits is 8, the manifest says 4"),
    "another metric": (lambda _: trained(faiss.IndexPQ(8, 2, 4)), "its metric is l2, the manifest says inner_product"),
    "an unknown metric": (edited("pq", lambda i: setattr(i, "metric_type", faiss.METRIC_L1)), "its metric is FAISS's"),
    "fewer codes": (lambda _: trained(faiss.IndexPQ(8, 2, 4, IP), N - 1), "its n is 59, the manifest says 60"),
    "more codes": (lambda _: trained(faiss.IndexPQ(8, 2, 4, IP), N + 1), "its n is 61, the manifest says 60"),
    "no codes": (lambda _: trained(faiss.IndexPQ(8, 2, 4, IP), 0), "its n is 0, the manifest says 60"),
    "ids that nobody gave": (own_ids(np.arange(N)), "its has_ids is True, the manifest says False"),
    "ids twice wrapped": (wrapped_twice, "it is wrapped in IndexIDMap2, IndexIDMap2"),
    "a transform": (lambda _: trained(faiss.index_factory(8, "OPQ2,PQ2x4np", IP)), "wrapped in IndexPreTransform"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle(tmp_path)


def refused(bundle: Path, says: str) -> None:
    sign(bundle)
    for name in ("search", "evaluate"):
        message = refusal(jobs(bundle)[name], f"{bundle / INDEX}")
        assert says in message


@pytest.mark.parametrize("case", CASES)
def test_an_index_that_is_not_the_bundles(bundle: Path, case: str) -> None:
    make, says = CASES[case]
    faiss.write_index(make(bundle), str(bundle / INDEX))
    refused(bundle, says)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (move_ids, "of 60 codes"),
        (one_id_twice, "different codes of 60"),
        (a_negative_id, "has positions -1099511627776"),
    ],
)
def test_positions_that_are_not_all_there_once(tmp_path: Path, edit: Callable[[Any], None], says: str) -> None:
    bundle = old_bundle(tmp_path, "ivfpq")
    faiss.write_index(edited("ivfpq", edit)(bundle), str(bundle / INDEX))
    refused(bundle, says)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (np.arange(N) + 1, "its ids are not those of the items"),
        (np.arange(N)[::-1].copy(), "its ids are not those of the items"),
        (np.zeros(N, np.int64), "ids must differ, but 0 occurs more than once"),
        (np.arange(N) - 1, "id -1 is FAISS's mark"),
    ],
)
def test_ids_that_are_not_the_items(bundle: Path, ids: np.ndarray, says: str) -> None:
    with altered_manifest(bundle) as manifest:
        manifest["has_ids"] = True
    index: Any = build_index(*parts(bundle), "pq", ids=np.arange(N))
    faiss.copy_array_to_vector(ids, index.id_map)
    faiss.write_index(index, str(bundle / INDEX))
    if "items" not in says:
        with h5py.File(bundle / ITEMS, "r+") as file:
            file["ids"][...] = ids
    refused(bundle, says)


def test_ids_that_are_the_items(bundle: Path) -> None:
    with altered_manifest(bundle) as manifest:
        manifest["has_ids"] = True
    ids = read_items(bundle / ITEMS)["ids"]
    faiss.write_index(own_ids(ids)(bundle), str(bundle / INDEX))
    sign(bundle)
    with pinned(bundle) as files:
        assert index_in(files).ntotal == N


def test_too_few_ids(bundle: Path) -> None:
    with altered_manifest(bundle) as manifest:
        manifest["has_ids"] = True
    faiss.write_index(too_few_ids(bundle), str(bundle / INDEX))
    refused(bundle, "")


def test_exact_codes_of_other_items(tmp_path: Path) -> None:
    bundle = old_bundle(tmp_path, "pqfs")
    with altered_manifest(bundle) as manifest:
        manifest["refine"] = 1.0
    faiss.write_index(refined_by_others(bundle), str(bundle / INDEX))
    refused(bundle, "")


def test_a_binary_index(bundle: Path) -> None:
    index = faiss.IndexBinaryFlat(16)
    index.add(np.zeros((N, 2), np.uint8))
    faiss.write_index_binary(index, str(bundle / INDEX))
    refused(bundle, "is cut short or no FAISS index")


@pytest.mark.parametrize("kind", ["pq", "pqfs", "ivfpq"])
def test_a_file_that_is_cut_with_a_manifest_that_matches(tmp_path: Path, kind: str) -> None:
    bundle = old_bundle(tmp_path, kind)
    content = (bundle / INDEX).read_bytes()
    for size in (0, 3, 4, 40, len(content) // 2, len(content) - 1):
        (bundle / INDEX).write_bytes(content[:size])
        refused(bundle, "is cut short or no FAISS index")


VALUES = (b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8), b"\x3d" + bytes(7), b"\xff\xff\xff\x7f", b"\x02")


@pytest.mark.parametrize(
    ("kind", "refine", "own"),
    [("pq", False, True), ("pqfs", False, False), ("pqfs", True, False), ("ivfpq", False, False),
     ("ivfpqfs", False, True), ("ivfpqfs", True, False)],
)  # fmt: skip
def test_numbers_of_a_file_that_are_others(tmp_path: Path, kind: str, refine: bool, own: bool) -> None:
    """Some bytes of a good file made huge, negative or zero: refused, or nothing that a search relies on."""
    bundle = old_bundle(tmp_path)
    ids = read_items(bundle / ITEMS)["ids"] if own else None
    nlist = 4 if "ivf" in kind else None
    said = export(bundle, build_index(*parts(bundle), kind, refine=refine, ids=ids, nlist=nlist))
    content, path = (bundle / INDEX).read_bytes(), bundle / INDEX
    places = np.concatenate([np.arange(4, 80), np.arange(80, len(content), 13)])
    refusals = 0
    for at in places:
        value = VALUES[at % len(VALUES)]
        path.write_bytes(content[:at] + value + content[at + len(value) :])
        try:
            index = load_index(path)
            check_consistent(index)
        except ValueError as error:
            assert "\n" not in str(error)
            refusals += 1
            continue
        if describe_index(index) == said:
            I = index.search(np.ones((2, 8), np.float32), 3)[1]  # type: ignore[call-arg]
            assert I.shape == (2, 3)
    assert refusals > 20


def export(bundle: Path, index: Any) -> dict[str, Any]:
    faiss.write_index(index, str(bundle / INDEX))
    return describe_index(index)


def test_lists_in_another_file_are_not_searched(tmp_path: Path) -> None:
    bundle = old_bundle(tmp_path, "ivfpq")
    index: Any = build_index(*parts(bundle), "ivfpq", nlist=1)
    outside = faiss.OnDiskInvertedLists(1, index.code_size, str(tmp_path / "outside.bin"))
    outside.merge_from(index.invlists, 0)
    index.replace_invlists(outside, False)
    index.referenced_objects = [outside]
    faiss.write_index(index, str(bundle / INDEX))
    refused(bundle, "its OnDiskInvertedLists are not of its codes")


def test_codebooks_that_are_not_finite(bundle: Path) -> None:
    index: Any = build_index(*parts(bundle), "pq")
    faiss.rev_swig_ptr(index.pq.centroids.data(), 1)[0] = np.nan
    faiss.write_index(index, str(bundle / INDEX))
    refused(bundle, "its codebooks hold NaN or infinite values")


def test_a_k_factor_that_would_fill_the_memory(tmp_path: Path) -> None:
    bundle = old_bundle(tmp_path, "pqfs")
    codebooks, codes = parts(bundle)
    for k_factor in (1001.0, 1e9):
        with altered_manifest(bundle) as manifest:
            manifest["refine"] = k_factor
        faiss.write_index(build_index(codebooks, codes, "pqfs", refine=True, k_factor=k_factor), str(bundle / INDEX))
        refused(bundle, "")  # FAISS 1.15 refuses such a file by itself


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "pqfs"), ("has_ids", True), ("nlist", 4), ("nprobe", 3), ("refine", 2.0), ("counts", {"items": 59}),
     ("d", 16), ("M", 4), ("nbits", 8)],
)  # fmt: skip
def test_a_manifest_that_says_otherwise(bundle: Path, name: str, value: Any) -> None:
    with altered_manifest(bundle) as manifest:
        manifest[name] = value
        manifest.pop("bytes_per_code")
    for job in ("search", "evaluate"):
        refusal(jobs(bundle)[job], str(bundle))
