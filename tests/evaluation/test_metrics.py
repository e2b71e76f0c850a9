"""Metrics against hand-made cases, written-out loops and the labels of whole searches."""

from itertools import permutations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mecoq_faiss.evaluation import (
    average_precision,
    evaluate_neighbors,
    evaluate_search,
    is_relevant,
    mean_average_precision,
    neighbor_recall,
    precision_at,
    precision_recall_curve,
    recall_at_k,
)
from tests.evaluation.truth import ap_loop, collection, pq


def test_average_precision_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(average_precision(relevance, 4), [5 / 6, 1 / 2, 0, 1])
    np.testing.assert_allclose(average_precision(relevance, 2), [1, 1 / 2, 0, 1])
    exact = average_precision(relevance, 4, num_relevant=[2, 4, 0, 8])
    np.testing.assert_allclose(exact, [5 / 6, 1 / 8, 0, 1 / 2])
    assert mean_average_precision(relevance, 4) == pytest.approx((5 / 6 + 1 / 2 + 0 + 1) / 4, abs=1e-15)


@pytest.mark.parametrize("k", [1, 3, 7, 40, 60])
def test_equals_a_loop(k):
    rng = np.random.default_rng(k)
    relevance = rng.random((30, 40)) < rng.random((30, 1))
    total = relevance.sum(1) + 5
    want = [ap_loop(row, k) for row in relevance]
    np.testing.assert_allclose(average_precision(relevance, k), want, atol=1e-12)
    want = [ap_loop(row, k, n) for row, n in zip(relevance, total, strict=True)]
    np.testing.assert_allclose(average_precision(relevance, k, num_relevant=total), want, atol=1e-12)


def test_precision_and_recall_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(precision_at(relevance, [1, 2, 4]), [1 / 2, 1 / 2, 3 / 8])
    precision, recall = precision_recall_curve(relevance, [2, 4])
    np.testing.assert_allclose(precision, [1 / 2, 1 / 2, 1 / 2, 3 / 8])
    np.testing.assert_allclose(recall, [1 / 4, 3 / 8, 5 / 8, 5 / 8])
    assert recall_at_k([[1, 2, 3]], [[3, 9, 1]], 3) == pytest.approx(2 / 3)
    assert recall_at_k([[1, 2, 3], [4, -1, -1]], [[2], [-1]], 3) == 1


def test_label_sets_in_a_search():
    xb, xq, labels, labels_q, index = collection("pq, L2")
    index.add(xb)
    one_hot = np.eye(5, dtype=int)
    sets = evaluate_search(index, xq, one_hot[labels_q], one_hot[labels], 50)
    classes = evaluate_search(index, xq, labels_q, labels, 50)
    np.testing.assert_allclose(sets["ap"], classes["ap"], atol=1e-15)


def test_recall_of_neighbors():
    xb, xq, _, _, index = collection("flat")
    index.add(xb)
    _, exact = index.search(xq, 20)
    assert evaluate_neighbors(index, xq, exact, 10) == 1
    coarse = pq(faiss.METRIC_L2)
    coarse.train(xb)
    coarse.add(xb)
    found = coarse.search(xq, 700)
    want = precision_at((found[1][:, :, None] == exact[:, None, :10]).any(2), [10], scores=-found[0])[0]
    assert evaluate_neighbors(coarse, xq, exact, 10) == pytest.approx(want, abs=1e-12)


def test_precision_among_the_first_of_each_query():
    xb, xq, labels, labels_q, index = collection("pq, L2", n=300)
    index.add(xb)
    D, I = index.search(xq, 300)
    relevance = is_relevant(labels_q, labels, I)
    found = evaluate_search(index, xq, labels_q, labels, 300)
    for n in (1, 10, 100):
        want = [precision_at(row[None], [n], scores=-d[None])[0] for row, d in zip(relevance, D, strict=True)]
        np.testing.assert_allclose(found[f"precision_at_{n}"], want, atol=1e-12)
        assert found[f"precision_at_{n}"].mean() == pytest.approx(found["precision"][n - 1], abs=1e-12)
    few = evaluate_search(index, xq, labels_q, labels, 50)
    assert [key for key in few if key.startswith("precision_at_")] == ["precision_at_1", "precision_at_10"]


def test_recall_of_each_query_by_hand():
    index = faiss.IndexFlatL2(1)
    index.add(np.arange(6, dtype=np.float32)[:, None])
    xq = np.array([[0.1], [4.9], [2.2]], np.float32)
    exact = [[0, 1], [5, -1], [-1, -1]]
    np.testing.assert_allclose(neighbor_recall(index, xq, exact, 2), [1, 1, 0])
    np.testing.assert_allclose(neighbor_recall(index, xq, [[0, 5], [1, -1], [2, 3]], 2), [0.5, 0, 1])
    assert evaluate_neighbors(index, xq, exact, 2) == 1, "a query without neighbours weighs nothing"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_average_precision([1, 0], 2), "want"),
        (lambda: mean_average_precision([[1, 0]], 0), "k >= 1"),
        (lambda: mean_average_precision([[2, 0]], 2), "0 or 1"),
        (lambda: mean_average_precision([[1, 0]], 2, scores=[[1.0, 2.0]]), "negate"),
        (lambda: mean_average_precision([[1, 0]], 2, num_relevant=3), "one count a query"),
        (lambda: mean_average_precision([[1, 1]], 2, scores=[[1, 1]], tied=([1], [1])), "fewer"),
        (lambda: precision_at([[1, 0]], [3]), "1..2"),
        (lambda: recall_at_k([[1]], [[1], [2]], 1), "same queries"),
        (lambda: is_relevant([1, 2], [[1, 0]], [[0], [0]]), "labels"),
        (lambda: is_relevant([1, 2], [1], [[0]]), "one row"),
        (lambda: evaluate_search(faiss.IndexFlatL2(2), np.zeros((1, 2), "f"), [1], [1], 1), "one label each"),
        (lambda: evaluate_neighbors(faiss.IndexFlatL2(2), np.zeros((1, 2), "f"), [[0]], 1), "not empty"),
    ],
)
def test_errors_say_what_to_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()


RANKINGS = st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1))


@given(RANKINGS, st.integers(1, 15))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_any_ranking_equals_a_loop(relevance, k):
    found = average_precision(relevance, k)
    np.testing.assert_allclose(found, [ap_loop(row, k) for row in relevance], atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()
    best = [sorted(row, reverse=True) for row in relevance]
    assert (average_precision(best, k) >= found - 1e-12).all()  # no order is better than the relevant ones first
    n = min(k, len(relevance[0]))
    assert precision_at(relevance, [n])[0] == pytest.approx(np.asarray(relevance)[:, :n].mean())


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
@settings(max_examples=50, derandomize=True, deadline=None)
def test_any_ties_are_the_mean_over_their_orders(row, data):
    scores = sorted((data.draw(st.integers(0, 2)) for _ in row), reverse=True)
    k = data.draw(st.integers(1, len(row)))
    orders = [o for o in permutations(range(len(row))) if [scores[i] for i in o] == scores]
    expected = np.mean([ap_loop([row[i] for i in order], k) for order in orders])
    assert average_precision([row], k, scores=[scores])[0] == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 8), st.integers(1, 10), st.integers(0, 10**6))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_any_recall_is_a_share_of_sets(nq, k, seed):
    rng = np.random.default_rng(seed)
    I, exact = (np.stack([rng.permutation(20)[:10] for _ in range(nq)]) for _ in range(2))
    shares = [len({*a[:k].tolist()} & {*b[:k].tolist()}) / k for a, b in zip(I, exact, strict=True)]
    assert recall_at_k(I, exact, k) == pytest.approx(np.mean(shares))
