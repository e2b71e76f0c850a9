"""Searches among chosen rows: those of a brute force over these rows only."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import KINDS, build_index, without_ids
from mecoq_faiss.index.filtered import FILTERED, search_rows
from tests.index.truth import arrays, brute_force

ROWS = np.arange(3, 1001, 7)


@pytest.mark.parametrize(
    ("kind", "K", "options"),
    [("ivfpq", 256, {}), ("gpu", 256, {}), ("ivfpqfs", 16, {"refine": True, "k_factor": 64.0})],
    ids=["ivfpq", "gpu", "ivfpqfs"],
)
def test_the_best_of_the_chosen_rows(kind, K, options):
    codebooks, codes, xq = arrays(1001, 4, K)
    more = {} if kind == "gpu" else {"nlist": 7, "nprobe": 7}
    index = build_index(codebooks, codes, kind, **more, **options)
    D, I = search_rows(index, xq, 5, ROWS)
    scores = brute_force(codebooks, codes, xq)
    np.testing.assert_allclose(D, -np.sort(-scores[:, ROWS], axis=1)[:, :5], atol=1e-5)
    assert np.isin(I, ROWS).all()
    np.testing.assert_allclose(D, np.take_along_axis(scores, I, axis=1), atol=1e-5)


def test_no_more_than_there_are():
    codebooks, codes, xq = arrays(1001, 4, 256)
    index = build_index(codebooks, codes, "gpu", nlist=5, ids=np.arange(1001) + 9)
    D, I = search_rows(without_ids(index), xq, 4, np.array([6, 990]))
    assert np.sort(I[:, :2], axis=1).tolist() == [[6, 990]] * len(xq) and (I[:, 2:] == -1).all()
    np.testing.assert_allclose(D[:, :2], -np.sort(-brute_force(codebooks, codes, xq)[:, [6, 990]], axis=1), atol=1e-5)


def test_only_the_lists_that_the_index_visits():
    codebooks, codes, xq = arrays(1001, 4, 256)
    index = build_index(codebooks, codes, "ivfpq", nlist=16, nprobe=2)
    _, visited = index.search(xq, 1001)
    _, I = search_rows(index, xq, len(ROWS), ROWS)
    for found, of_all in zip(I, visited, strict=True):
        assert set(found) - {-1} == set(of_all) & set(ROWS)
    assert (I == -1).any(axis=1).all()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(FILTERED)))
@pytest.mark.parametrize("refine", [False, True])
def test_kinds_that_faiss_does_not_search_so(kind, refine):
    codebooks, codes, xq = arrays(100, 4, 16)
    index = build_index(codebooks, codes, kind, refine=refine and kind == "pqfs")
    name = type(faiss.downcast_index(build_index(codebooks, codes, kind))).__name__
    with pytest.raises(ValueError, match=f"FAISS searches no {name} among .* one of ivfpq, ivfpqfs, gpu"):
        search_rows(index, xq, 5, np.arange(3))
