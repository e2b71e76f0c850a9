"""Sweeps of indexes: recall against brute force, the frontier by hand."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.index.tuner import Point, Truth, frontier, one_thread, sweep, winner


def clustered(nbits: int, n: int = 3000, nq: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codebooks, codes of vectors around 30 centres, and queries around the same."""
    rng = np.random.default_rng(nbits)
    M, K, d = 32 // nbits, 2**nbits, 4
    codebooks = rng.normal(size=(M, K, d)).astype(np.float32)
    codebooks /= np.linalg.norm(codebooks, axis=2, keepdims=True)
    centers = rng.normal(size=(30, M, d))
    x = centers[rng.integers(0, 30, n + nq)] + rng.normal(size=(n + nq, M, d))
    x = (x / np.linalg.norm(x, axis=2, keepdims=True)).astype(np.float32)
    codes = np.einsum("nmd,mkd->nmk", x[:n], codebooks).argmax(2).astype(np.uint8)
    return codebooks, codes, x[n:].reshape(nq, -1)


def point(recall: float, ms: float) -> Point:
    return Point("pq", None, None, None, recall, ms)


def test_frontier_and_winner_by_hand() -> None:
    points = [point(0.9, 2), point(1.0, 9), point(0.8, 3), point(0.95, 2), point(0.5, 1), point(1.0, 10)]
    assert frontier(points) == [point(0.5, 1), point(0.95, 2), point(1.0, 9)]
    assert winner(points, 0.93) == point(0.95, 2)
    assert winner(points, 1.0) == point(1.0, 9)
    assert winner(points[:1], 0.95) is None


@pytest.mark.parametrize("nbits", [8, 4])
def test_recall_counts_items_that_reach_the_kth_true_score(nbits: int) -> None:
    books, codes, xq = clustered(nbits)
    truth = Truth(books, codes, xq, 10)
    scores = xq @ decode_codes(books, codes).T
    kth = np.sort(scores, axis=1)[:, -10]
    np.testing.assert_allclose(truth.kth, kth, atol=1e-5)
    index = build_index(books, codes, "ivfpq", nlist=16, nprobe=1)
    I = index.search(xq, 10)[1]
    reached = [[i >= 0 and scores[q, i] >= kth[q] - 1e-5 for i in row] for q, row in enumerate(I)]
    assert truth.recall(index) == pytest.approx(np.mean(reached))
    assert 0.1 < truth.recall(index) < 1
    assert truth.recall(build_index(books, codes)) == 1


@pytest.mark.parametrize("nbits", [8, 4])
def test_the_sweep_takes_every_kind_of_the_codes_to_full_recall(nbits: int) -> None:
    books, codes, xq = clustered(nbits)
    truth = Truth(books, codes, xq, 5)
    truth.ms_per_query = float("inf")  # else a busy machine's timing would end the sweep early
    points = sweep(truth, nlists=[6, 16])
    flat, ivf = ("pq", "ivfpq") if nbits == 8 else ("pqfs", "ivfpqfs")
    assert {p.kind for p in points} == {flat, ivf}
    assert {p.nlist for p in points} == {None, 6, 16}
    assert all(p.ms_per_query > 0 for p in points)
    assert max(p.recall for p in points if p.kind == flat) == 1
    for nlist in (6, 16):
        curve = {p.nprobe: p.recall for p in points if p.nlist == nlist}  # the last of a nprobe: the most exact
        assert list(curve) == sorted(n for n in curve if n is not None) and curve[1] < max(curve.values()) == 1
    assert any(p.k_factor for p in points) == (nbits == 4)
    for p in points:  # what is reported is what such an index gives
        if p.k_factor is None and p.nlist == 6:
            again = build_index(books, codes, p.kind, nlist=6, nprobe=p.nprobe)
            assert truth.recall(again) == pytest.approx(p.recall)


def test_timing_puts_the_threads_back() -> None:
    faiss.omp_set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), one_thread():
            assert faiss.omp_get_max_threads() == 1
            raise RuntimeError
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(1)


def test_time_is_the_best_of_a_few_for_each_query() -> None:
    books, codes, xq = clustered(8)
    truth = Truth(books, codes, xq, 5)
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])  # calls of 3, 1 and 2 seconds
    assert truth.time(truth.index, lambda: next(clock)) == 1000 / 20
