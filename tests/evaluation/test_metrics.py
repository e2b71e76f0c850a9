"""Metrics against hand-made cases, written-out loops and every order of the tied items."""

from itertools import permutations

import faiss
import numpy as np
import pytest

from mecoq_faiss.evaluation import (
    average_precision,
    count_relevant,
    evaluate_neighbours,
    evaluate_search,
    is_relevant,
    mean_average_precision,
    neighbour_recall,
    precision_at,
    precision_recall_curve,
    ranking,
    recall_at_k,
)
from mecoq_faiss.evaluation import relevance as relevance_module
from mecoq_faiss.index import build_index


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
    heads = [()]
    for group in groups:
        heads = [head + order for head in heads for order in permutations(group)]
    return [list(head) for head in heads]


def test_average_precision_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(average_precision(relevance, 4), [5 / 6, 1 / 2, 0, 1])
    np.testing.assert_allclose(average_precision(relevance, 2), [1, 1 / 2, 0, 1])
    exact = average_precision(relevance, 4, num_relevant=[2, 4, 0, 8])
    np.testing.assert_allclose(exact, [5 / 6, 1 / 8, 0, 1 / 2])
    assert mean_average_precision(relevance, 4) == pytest.approx((5 / 6 + 1 / 2 + 0 + 1) / 4, abs=1e-15)


def test_two_tied_items_by_hand():
    # one of two tied items is relevant: at rank 1 or at rank 2, so (1 + 1/2) / 2; cut at 1: found or not
    assert mean_average_precision([[1, 0]], 2, scores=[[3.0, 3.0]]) == pytest.approx(0.75)
    assert mean_average_precision([[0, 1]], 1, scores=[[3.0, 3.0]]) == pytest.approx(0.5)
    # a million tied items, a tenth of them relevant, of which the ranking shows one
    got = mean_average_precision([[0]], 1, scores=[[3.0]], tied=([1_000_000], [100_000]))
    assert got == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7, 40, 60])
def test_equals_a_loop(k):
    rng = np.random.default_rng(k)
    relevance = rng.random((30, 40)) < rng.random((30, 1))
    total = relevance.sum(1) + 5
    want = [ap_loop(row, k) for row in relevance]
    np.testing.assert_allclose(average_precision(relevance, k), want, atol=1e-12)
    want = [ap_loop(row, k, n) for row, n in zip(relevance, total, strict=True)]
    np.testing.assert_allclose(average_precision(relevance, k, num_relevant=total), want, atol=1e-12)


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


def test_precision_and_recall_by_hand():
    relevance = [[1, 0, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(precision_at(relevance, [1, 2, 4]), [1 / 2, 1 / 2, 3 / 8])
    precision, recall = precision_recall_curve(relevance, [2, 4])
    np.testing.assert_allclose(precision, [1 / 2, 1 / 2, 1 / 2, 3 / 8])
    np.testing.assert_allclose(recall, [1 / 4, 3 / 8, 5 / 8, 5 / 8])
    assert recall_at_k([[1, 2, 3]], [[3, 9, 1]], 3) == pytest.approx(2 / 3)
    assert recall_at_k([[1, 2, 3], [4, -1, -1]], [[2], [-1]], 3) == 1


def test_labels_by_hand():
    I = [[0, 2, -1], [3, 1, 0]]
    np.testing.assert_array_equal(is_relevant([7, 8], [7, 8, 7, 9], I), [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(count_relevant([7, 8, 10], [7, 8, 7, 9]), [2, 1, 0])
    sets_q, sets_db = [[1, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(is_relevant(sets_q, sets_db, I), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(count_relevant(sets_q, sets_db), [2, 2])


def test_label_sets_equal_their_products(monkeypatch):
    monkeypatch.setattr(relevance_module, "PART", 64)
    rng = np.random.default_rng(0)
    q, db = rng.random((50, 81)) < 0.03, rng.random((200, 81)) < 0.03
    shared = q.astype(int) @ db.T.astype(int) > 0
    np.testing.assert_array_equal(is_relevant(q, db, np.tile(np.arange(200), (50, 1))), shared)
    np.testing.assert_array_equal(count_relevant(q, db), shared.sum(1))


def pq(metric, d=16, M=2):
    index = faiss.IndexPQ(d, M, 4, metric)
    index.pq.cp.min_points_per_centroid = 1
    return index


def ivf(d=16):
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(d), d, 6, 2, 4)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.nprobe = 3
    return index


def fast_scan():
    index = faiss.IndexPQFastScan(16, 2, 4)
    index.pq.cp.min_points_per_centroid = 1
    return index


INDEXES = {
    "pq, L2": lambda: pq(faiss.METRIC_L2),
    "pq, IP": lambda: pq(faiss.METRIC_INNER_PRODUCT),
    "one byte": lambda: pq(faiss.METRIC_L2, M=1),
    "fast scan": fast_scan,
    "ivf": ivf,
    "flat": lambda: faiss.IndexFlatL2(16),
    "binary": lambda: faiss.IndexBinaryFlat(16),
}


def collection(kind, n=700, nq=20):
    """Database sorted by class, queries and a trained empty index; few distinct codes, so ties abound."""
    rng = np.random.default_rng(0)
    labels, labels_q = np.sort(rng.integers(0, 5, n)), rng.integers(0, 5, nq)
    centres = rng.standard_normal((5, 16))
    xb = (centres[labels] + rng.standard_normal((n, 16))).astype(np.float32)
    xq = (centres[labels_q] + rng.standard_normal((nq, 16))).astype(np.float32)
    index = INDEXES[kind]()
    if kind == "binary":
        return np.packbits(xb > 0, axis=1), np.packbits(xq > 0, axis=1), labels, labels_q, index
    index.train(xb)
    return xb, xq, labels, labels_q, index


@pytest.mark.parametrize("cells", [ranking.CELLS, 2000])
@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("k", [1, 50, 1000])
def test_database_order_does_not_matter(kind, k, cells, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", cells)  # many small batches
    xb, xq, labels, labels_q, index = collection(kind)
    results = []
    for order in (np.arange(len(xb)), np.arange(len(xb))[::-1], np.random.default_rng(1).permutation(len(xb))):
        index.reset()
        index.add(np.ascontiguousarray(xb[order]))
        results.append(evaluate_search(index, xq, labels_q, labels[order], k))
    for other in results[1:]:
        for key in results[0]:
            np.testing.assert_allclose(other[key], results[0][key], atol=1e-9, err_msg=key)


@pytest.mark.parametrize("kind", ["pq, L2", "pq, IP", "fast scan", "binary"])
def test_search_equals_the_whole_ranking(kind):
    xb, xq, labels, labels_q, index = collection(kind, n=300)
    index.add(xb)
    D, I = index.search(xq, 300)
    D = D if index.metric_type == faiss.METRIC_INNER_PRODUCT else -D
    relevance, total = is_relevant(labels_q, labels, I), count_relevant(labels_q, labels)
    got = evaluate_search(index, xq, labels_q, labels, 70)
    np.testing.assert_allclose(got["ap"], average_precision(relevance, 70, scores=D), atol=1e-12)
    assert got["map_all"] == pytest.approx(mean_average_precision(relevance, 70, scores=D, num_relevant=total))
    precision, recall = precision_recall_curve(relevance, total, k=70, scores=D)
    np.testing.assert_allclose(got["precision"], precision, atol=1e-12)
    np.testing.assert_allclose(got["recall"], recall, atol=1e-12)

    rng = np.random.default_rng(0)
    loops = []
    for _ in range(100):  # FAISS's own ranking of shuffled databases, by the plain definition
        order = rng.permutation(300)
        index.reset()
        index.add(np.ascontiguousarray(xb[order]))
        rows = is_relevant(labels_q, labels[order], index.search(xq, 70)[1])
        loops.append(np.mean([ap_loop(row, 70) for row in rows]))
    assert abs(got["map"] - np.mean(loops)) < 4 * np.std(loops) / 10


def test_label_sets_in_a_search():
    xb, xq, labels, labels_q, index = collection("pq, L2")
    index.add(xb)
    one_hot = np.eye(5, dtype=int)
    sets = evaluate_search(index, xq, one_hot[labels_q], one_hot[labels], 50)
    classes = evaluate_search(index, xq, labels_q, labels, 50)
    np.testing.assert_allclose(sets["ap"], classes["ap"], atol=1e-15)


def test_recall_of_neighbours():
    xb, xq, _, _, index = collection("flat")
    index.add(xb)
    _, exact = index.search(xq, 20)
    assert evaluate_neighbours(index, xq, exact, 10) == 1
    coarse = pq(faiss.METRIC_L2)
    coarse.train(xb)
    coarse.add(xb)
    found = coarse.search(xq, 700)
    want = precision_at((found[1][:, :, None] == exact[:, None, :10]).any(2), [10], scores=-found[0])[0]
    assert evaluate_neighbours(coarse, xq, exact, 10) == pytest.approx(want, abs=1e-12)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def transformed(index):
    return faiss.IndexPreTransform(faiss.RemapDimensionsTransform(index.d, index.d, False), index)


WRAPPED = {
    "bare": lambda index: index,
    "ids": lambda index: build_index(*refined_codes()[:2], "pqfs", refine=True, k_factor=1.0, ids=np.arange(3000)),  # type: ignore[arg-type, misc]
    "transform": transformed,
}


def refined_codes():
    """Codebooks (8, 16, 2), codes (3000, 8), queries (50, 16).

    One codebook is wide, so that FastScan's 255 steps are coarse for the others, and some of the first come late.
    """
    rng = np.random.default_rng(0)
    books = unit(np.array([1.0, 0.0]) + 0.1 * rng.standard_normal((8, 16, 2)))
    books[0] = unit(rng.standard_normal((16, 2)))
    codes = rng.integers(0, 16, (3000, 8)).astype(np.uint8)
    return books.astype(np.float32), codes, unit(rng.standard_normal((50, 8, 2))).astype(np.float32).reshape(50, 16)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_refined_index_is_judged_by_its_own_answer_at_k(wrapped):
    books, codes, xq = refined_codes()
    index = WRAPPED[wrapped](build_index(books, codes, "pqfs", refine=True, k_factor=1.0))
    exact = build_index(books, codes).search(xq, 10)[1]
    D, I = index.search(xq, 10)
    share = [len(set(found) & set(true)) / 10 for found, true in zip(I, exact, strict=True)]
    assert 0.5 < np.mean(share) < 0.99, "it does miss some, or nothing is tested"
    np.testing.assert_allclose(neighbour_recall(index, xq, exact, 10), share, atol=1e-12)
    assert evaluate_neighbours(index, xq, exact, 10) == pytest.approx(recall_at_k(I, exact, 10), abs=1e-12)

    labels, labels_q = np.arange(3000) % 3, np.arange(50) % 3
    found = evaluate_search(index, xq, labels_q, labels, 10)
    relevance = is_relevant(labels_q, labels, I)
    np.testing.assert_allclose(found["ap"], average_precision(relevance, 10, scores=D), atol=1e-12)
    np.testing.assert_allclose(found["precision_at_10"], relevance.mean(1), atol=1e-12)
    # also of a search for more, the precision among the first n is that of a search for n
    longer = evaluate_search(index, xq, labels_q, labels, 700)
    for n in (1, 10, 100):
        own = is_relevant(labels_q, labels, index.search(xq, n)[1]).mean(1)
        np.testing.assert_allclose(longer[f"precision_at_{n}"], own, atol=1e-12)


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
    np.testing.assert_allclose(neighbour_recall(index, xq, exact, 2), [1, 1, 0])
    np.testing.assert_allclose(neighbour_recall(index, xq, [[0, 5], [1, -1], [2, 3]], 2), [0.5, 0, 1])
    assert evaluate_neighbours(index, xq, exact, 2) == 1, "a query without neighbours weighs nothing"


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
        (lambda: evaluate_neighbours(faiss.IndexFlatL2(2), np.zeros((1, 2), "f"), [[0]], 1), "not empty"),
    ],
)
def test_errors_say_what_to_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()
