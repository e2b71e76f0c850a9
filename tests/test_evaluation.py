"""Metrics against hand-made cases, written-out loops and every order of the tied items."""

from itertools import permutations

import numpy as np
import pytest

from mecoq_faiss.evaluation import (
    average_precision,
    is_relevant,
    mean_average_precision,
    precision_at,
    precision_recall_curve,
    recall_at_k,
)


def ap_loop(relevance, k, num_relevant=None):
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevance[:k], start=1):
        if relevant:
            hits += 1
            total += hits / rank
    divisor = hits if num_relevant is None else num_relevant
    return total / divisor if divisor else 0.0


def orders(scores):
    """Every order of the positions that keeps the scores non-increasing."""
    groups = [np.flatnonzero(scores == s) for s in sorted(set(scores), reverse=True)]
    tails = [()]
    for group in groups:
        tails = [tail + p for tail in tails for p in permutations(group)]
    return [list(tail) for tail in tails]


def test_average_precision_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(average_precision(relevance, 4), [(1 + 2 / 3) / 2, 1 / 2, 0, 1])
    np.testing.assert_allclose(average_precision(relevance, 2), [1, 1 / 2, 0, 1])
    np.testing.assert_allclose(average_precision(relevance, 4, num_relevant=[2, 4, 0, 8]), [5 / 6, 1 / 8, 0, 1 / 2])
    assert mean_average_precision(relevance, 4) == pytest.approx((5 / 6 + 1 / 2 + 0 + 1) / 4, abs=1e-15)


def test_two_tied_items_by_hand():
    # one of two tied items is relevant: rank 1 or rank 2, so (1 + 1/2) / 2; cut at 1: found or not
    assert mean_average_precision([[1, 0]], 2, scores=[[3.0, 3.0]]) == pytest.approx(0.75)
    assert mean_average_precision([[0, 1]], 1, scores=[[3.0, 3.0]]) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [1, 3, 7, 40, 60])
def test_equals_a_loop(k):
    rng = np.random.default_rng(k)
    relevance = rng.random((30, 40)) < rng.random((30, 1))
    num_relevant = relevance.sum(1) + 5
    np.testing.assert_allclose(average_precision(relevance, k), [ap_loop(row, k) for row in relevance], atol=1e-12)
    np.testing.assert_allclose(
        average_precision(relevance, k, num_relevant=num_relevant),
        [ap_loop(row, k, n) for row, n in zip(relevance, num_relevant, strict=True)],
        atol=1e-12,
    )


@pytest.mark.parametrize("k", range(1, 8))
def test_ties_equal_the_mean_over_all_orders(k):
    rng = np.random.default_rng(k)
    for _ in range(20):
        scores = np.sort(rng.integers(0, 4, 7))[::-1]
        relevance = rng.random(7) < rng.random()
        every = [relevance[order] for order in orders(scores)]
        want = np.mean([ap_loop(row, k) for row in every])
        assert mean_average_precision([relevance], k, scores=[scores]) == pytest.approx(want, abs=1e-12)
        want = np.mean([ap_loop(row, k, 9) for row in every])
        got = mean_average_precision([relevance], k, scores=[scores], num_relevant=[9])
        assert got == pytest.approx(want, abs=1e-12)
        tied = scores == scores[k - 1]
        counts = ([tied.sum()], [(tied & relevance).sum()])
        got = mean_average_precision([relevance[:k]], k, scores=[scores[:k]], tied=counts)
        assert got == pytest.approx(np.mean([ap_loop(row, k) for row in every]), abs=1e-12)
        want = np.mean([row[:k].sum() / k for row in every])
        np.testing.assert_allclose(precision_at([relevance], [k], scores=[scores]), [want], atol=1e-12)


def test_precision_recall_and_labels_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(precision_at(relevance, [1, 2, 4]), [1 / 2, 1 / 2, 3 / 8])
    precision, recall = precision_recall_curve(relevance, [2, 4])
    np.testing.assert_allclose(precision, [1 / 2, 1 / 2, 1 / 2, 3 / 8])
    np.testing.assert_allclose(recall, [1 / 4, 3 / 8, 5 / 8, 5 / 8])
    I = [[0, 2, -1], [3, 1, 0]]
    np.testing.assert_array_equal(is_relevant([7, 8], [7, 8, 7, 9], I), [[1, 1, 0], [0, 1, 0]])
    sets_q, sets_db = [[1, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(is_relevant(sets_q, sets_db, I), [[1, 0, 0], [0, 1, 0]])
    assert recall_at_k([[1, 2, 3]], [[3, 9, 1]], 3) == pytest.approx(2 / 3)
    assert recall_at_k([[1, 2, 3], [4, -1, -1]], [[2], [-1]], 3) == 1
