"""Searches among chosen rows: those of a brute force over these rows only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, save_index, set_search_effort, without_ids
from mecoq_faiss.index.filtered import ChosenRows, search_rows
from mecoq_faiss.index.inspect import read_codes_at
from tests.index.truth import arrays, brute_force, every_case, every_kind

ROWS = np.arange(3, 1001, 7)


@pytest.mark.parametrize("own", [False, True], ids=["", "own-ids"])
@pytest.mark.parametrize("share", [0.002, 0.5])
@every_case
def test_what_a_full_search_gives_of_the_chosen_rows(kind, M, K, options, share, own):
    codebooks, codes, xq = arrays(1001, M, K)
    rows = np.flatnonzero(np.random.default_rng(0).random(1001) < share)
    ids = np.arange(1001)[::-1] * 3 + 7 if own else None
    index = without_ids(build_index(codebooks, codes, kind, ids=ids, **options))
    set_search_effort(index, k_factor=1001)  # of a refiner: that its candidates are all
    whole_D, whole_I = index.search(xq, 1001)
    D, I = search_rows(index, xq, 20, rows)
    for q in range(len(xq)):
        of_all = np.isin(whole_I[q], rows)
        wanted = whole_D[q][of_all][:20]
        assert (I[q, len(wanted) :] == -1).all() and len(set(I[q, : len(wanted)].tolist())) == len(wanted)
        np.testing.assert_allclose(D[q, : len(wanted)], wanted, rtol=0, atol=2e-6)
        scores = dict(zip(whole_I[q].tolist(), whole_D[q].tolist(), strict=True))
        assert np.isin(I[q, : len(wanted)], rows).all()
        np.testing.assert_allclose([scores[i] for i in I[q, : len(wanted)].tolist()], wanted, rtol=0, atol=2e-6)


def test_no_more_than_there_are():
    codebooks, codes, xq = arrays(1001, 4, 256)
    index = build_index(codebooks, codes, "ivfpq-all", nlist=5, ids=np.arange(1001) + 9)
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


@every_kind
def test_none_are_chosen(kind, K):
    codebooks, codes, xq = arrays(100, 4, K)
    D, I = search_rows(build_index(codebooks, codes, kind), xq, 3, np.empty(0, np.int64))
    assert I.shape == D.shape == (len(xq), 3) and (I == -1).all()


@pytest.mark.parametrize("kind", ["pq", "pqfs"])
def test_chosen_codes_of_an_index_whose_file_is_mapped(kind, tmp_path):
    codebooks, codes, _ = arrays(333, 3, 16)
    save_index(build_index(codebooks, codes, kind), tmp_path / "index")
    rows = np.array([0, 31, 32, 33, 300, 332])
    index = faiss.read_index(str(tmp_path / "index"), faiss.IO_FLAG_MMAP_IFC if kind == "pq" else 0)
    np.testing.assert_array_equal(read_codes_at(index, rows), codes[rows])


def test_many_threads_search_the_same_rows():
    codebooks, codes, xq = arrays(1001, 4, 256)
    chosen = ChosenRows(build_index(codebooks, codes, "ivfpq", nlist=7), ROWS)
    expected = chosen.search(xq, 5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: chosen.search(xq, 5), range(20)):
            np.testing.assert_array_equal(found, expected)
