"""A changed index is the index that is built of what it then holds."""

from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, describe_index, read_codebooks, read_codes, read_ids
from mecoq_faiss.index.change import append_codes, rebuilt, remove_rows

KINDS: list[tuple[str, int, dict[str, Any]]] = [
    ("pq", 256, {}),
    ("pq", 16, {}),
    ("pqfs", 16, {}),
    ("pqfs", 16, {"refine": True}),
    ("ivfpq", 256, {"nlist": 8, "nprobe": 8}),
    ("ivfpqfs", 16, {"nlist": 8, "nprobe": 8}),
    ("ivfpqfs", 16, {"nlist": 8, "nprobe": 8, "refine": True}),
    ("ivfpq-all", 256, {"nlist": 2}),
]
M, D = 4, 32


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("kind", "K", "options"), KINDS)
def test_any_changes_equal_a_new_index(kind: str, K: int, options: dict[str, Any], own: bool) -> None:
    rng = np.random.default_rng(0)
    books = unit(rng.standard_normal((M, K, D // M)))
    codes = rng.integers(0, K, (1000, M)).astype(np.uint8)
    ids = np.arange(1000) * 7 + 3
    index = build_index(books, codes, kind, ids=ids if own else None, **options)
    for removed, added in ((5, 1), (0, 40), (130, 0), (1, 333), (999, 7)):
        rows = np.sort(rng.choice(len(codes), removed, replace=False))
        new = rng.integers(0, K, (added, M)).astype(np.uint8)
        new_ids = ids.max() + 1 + np.arange(added)
        codes, ids = np.concatenate([np.delete(codes, rows, axis=0), new]), np.append(np.delete(ids, rows), new_ids)
        if "nlist" in options:
            remove_rows(index, rows)
            append_codes(index, new, new_ids if own else None)
        else:
            index = rebuilt(describe_index(index), read_codebooks(index), codes, ids if own else None)
        np.testing.assert_array_equal(read_codes(index), codes)
        assert index.ntotal == len(codes)
        if own:
            np.testing.assert_array_equal(read_ids(index), ids)
        xq = unit(rng.standard_normal((9, M, D // M))).reshape(9, D)
        again = faiss.deserialize_index(faiss.serialize_index(index))
        assert describe_index(again) == describe_index(index)
        fresh = build_index(
            books, codes, kind, ids=ids if own else None, **(options | ({"nprobe": 8} if "nprobe" in options else {}))
        )
        k = min(20, len(codes))
        D_, I = again.search(xq, k)
        D_fresh, I_fresh = fresh.search(xq, k)
        np.testing.assert_allclose(D_, D_fresh, atol=1e-5)
        assert np.mean(I_fresh == I) > 0.99  # equal scores in any order


def test_ids_must_fit_the_index() -> None:
    books = unit(np.random.default_rng(0).standard_normal((M, 16, 2)))
    codes = np.zeros((3, M), np.uint8)
    with pytest.raises(ValueError, match="give one a code"):
        append_codes(build_index(books, codes, ids=np.arange(3)), codes)
    with pytest.raises(ValueError, match="returns positions"):
        append_codes(build_index(books, codes), codes, np.arange(3))
