"""Ties: expected values by hand, over every order, and over sampled ones."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mecoq_faiss.evaluation import mean_average_precision, precision_at, precision_recall_curve
from mecoq_faiss.evaluation.ties import (
    expected_average_precision,
    expected_precision_sum,
    expected_relevance,
    tie_groups,
)
from tests.evaluation.truth import ap_loop


def orders(scores):
    """Every order of the positions that keeps the scores non-increasing."""
    groups = [np.flatnonzero(scores == s) for s in sorted(set(scores), reverse=True)]
    heads = [()]
    for group in groups:
        heads = [head + order for head in heads for order in permutations(group)]
    return [list(head) for head in heads]


def test_two_tied_items_by_hand():
    # one of two tied items is relevant: at rank 1 or at rank 2, so (1 + 1/2) / 2; cut at 1: found or not
    assert mean_average_precision([[1, 0]], 2, scores=[[3.0, 3.0]]) == pytest.approx(0.75)
    assert mean_average_precision([[0, 1]], 1, scores=[[3.0, 3.0]]) == pytest.approx(0.5)
    # a million tied items, a tenth of them relevant, of which the ranking shows one
    got = mean_average_precision([[0]], 1, scores=[[3.0]], tied=([1_000_000], [100_000]))
    assert got == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize("k", range(1, 8))
def test_ties_equal_the_mean_over_all_orders(k):
    rng = np.random.default_rng(k)
    for _ in range(20):
        scores = np.sort(rng.integers(0, 4, 7))[::-1]
        relevance = rng.random(7) < rng.random()
        every = [relevance[order] for order in orders(scores)]

        def mean(measure, rankings=every):
            return pytest.approx(np.mean([measure(ranking) for ranking in rankings]), abs=1e-12)

        rows = {"relevance": [relevance], "scores": [scores]}
        assert mean_average_precision(k=k, **rows) == mean(lambda row: ap_loop(row, k))
        assert mean_average_precision(k=k, num_relevant=[9], **rows) == mean(lambda row: ap_loop(row, k, 9))
        assert precision_at(ns=[k], **rows)[0] == mean(lambda row: row[:k].mean())
        precision, recall = precision_recall_curve(num_relevant=[9], **rows)
        assert precision[k - 1] == mean(lambda row: row[:k].mean())
        assert recall[k - 1] == mean(lambda row: row[:k].sum() / 9)

        tied = scores == scores[k - 1]
        shown = {"scores": [scores[:k]], "tied": ([tied.sum()], [(tied & relevance).sum()])}
        assert mean_average_precision([relevance[:k]], k, **shown) == mean(lambda row: ap_loop(row, k))


def test_large_tie_group_equals_sampled_orders():
    rng = np.random.default_rng(0)
    relevance = np.zeros(3000, dtype=bool)
    relevance[:900] = True
    got = mean_average_precision([relevance[:500]], 500, scores=np.zeros((1, 500)), tied=([3000], [900]))
    sample = [ap_loop(rng.permutation(relevance), 500) for _ in range(400)]
    assert abs(got - np.mean(sample)) < 4 * np.std(sample) / 20


def test_groups_by_hand():
    groups = tie_groups([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], 3, [[9, 5, 5, 5, 1], [4, 3, 2, 1, 1]])
    assert groups.k == 3 and groups.start.tolist() == [0, 2] and groups.last.tolist() == [1, 4]
    assert groups.query.tolist() == [0, 0, 1, 1, 1]
    assert groups.before.tolist() == [0, 1, 0, 1, 2]
    assert groups.ranks.tolist() == [1, 2, 1, 1, 1], "those above the cut-off"
    assert groups.members.tolist() == [1, 3, 1, 1, 1], "those below it too"
    assert groups.relevant.tolist() == [1, 2, 0, 1, 0]
    assert groups.found.tolist() == [0, 1, 0, 0, 1]
    told = tie_groups([[1, 0, 1]], 3, [[9, 5, 5]], ([7], [4]))
    assert told.members.tolist() == [1, 7] and told.relevant.tolist() == [1, 4]


def test_expected_values_by_hand():
    groups = tie_groups([[1, 0, 1]], 3, [[9, 5, 5]], ([3], [2]))  # one first, then two of a group of 2 in 3
    np.testing.assert_allclose(expected_relevance(groups), [[1, 2 / 3, 2 / 3]])
    # ranks 2 and 3 hold both, the first or the second of the two: 1 + 1, 1 or 2/3 more
    sums = [1 + 1 + 1, 1 + 1, 1 + 2 / 3]
    np.testing.assert_allclose(expected_precision_sum(groups), [np.mean(sums)])
    np.testing.assert_allclose(expected_average_precision(groups), [np.mean(sums / np.array([3, 2, 2]))])
