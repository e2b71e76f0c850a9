"""Rankings of a search: the same whatever the order of the database, and an index's own answer at k."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mecoq_faiss.evaluation import (
    average_precision,
    count_relevant,
    evaluate_neighbors,
    evaluate_search,
    is_relevant,
    mean_average_precision,
    neighbor_recall,
    precision_recall_curve,
    ranking,
    recall_at_k,
)
from mecoq_faiss.index import build_index
from tests.evaluation.truth import INDEXES, ap_loop, collection, refined_codes


@pytest.mark.parametrize("cells", [ranking.MOST_CELLS, 2000])
@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("k", [1, 50, 1000])
def test_database_order_does_not_matter(kind, k, cells, monkeypatch):
    monkeypatch.setattr(ranking, "MOST_CELLS", cells)  # many small batches
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


def transformed(index):
    return faiss.IndexPreTransform(faiss.RemapDimensionsTransform(index.d, index.d, False), index)


WRAPPED = {
    "bare": lambda index: index,
    "ids": lambda index: build_index(*refined_codes()[:2], "pqfs", refine=True, k_factor=1.0, ids=np.arange(3000)),  # type: ignore[arg-type, misc]
    "transform": transformed,
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_refined_index_is_judged_by_its_own_answer_at_k(wrapped):
    books, codes, xq = refined_codes()
    index = WRAPPED[wrapped](build_index(books, codes, "pqfs", refine=True, k_factor=1.0))
    exact = build_index(books, codes).search(xq, 10)[1]
    D, I = index.search(xq, 10)
    share = [len(set(found) & set(true)) / 10 for found, true in zip(I, exact, strict=True)]
    assert 0.5 < np.mean(share) < 0.99, "it does miss some, or nothing is tested"
    np.testing.assert_allclose(neighbor_recall(index, xq, exact, 10), share, atol=1e-12)
    assert evaluate_neighbors(index, xq, exact, 10) == pytest.approx(recall_at_k(I, exact, 10), abs=1e-12)

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


def by_position(wanted: list[int]):
    """Relevance of positions, whatever the query."""
    return lambda queries, I: np.isin(I, wanted)


def one_dimensional(values: list[float]) -> faiss.Index:
    index = faiss.IndexFlatL2(1)
    index.add(np.array(values, np.float32)[:, None])
    return index


def test_ranks_by_hand():
    index = one_dimensional([0, 1, 1, 1, 1, 5])
    (ranks,) = ranking.rank_all(index, np.float32([[0], [5]]), 3, by_position([0, 2, 4]))
    assert ranks.queries.tolist() == [0, 1]
    np.testing.assert_array_equal(ranks.scores, [[0, -1, -1], [0, -16, -16]])
    assert ranks.relevance[:, 0].tolist() == [True, False]
    assert ranks.members.tolist() == [4, 4] and ranks.relevant.tolist() == [2, 2]


def test_a_tie_group_is_seen_to_its_end_however_large():
    index = one_dimensional([0] + [1] * 500 + [2] * 30)
    wanted = list(range(0, 531, 5))  # of the 500: 5, 10, ... 500
    (ranks,) = ranking.rank_all(index, np.float32([[0]]), 2, by_position(wanted))
    assert ranks.members.tolist() == [500] and ranks.relevant.tolist() == [100]
    (whole,) = ranking.rank_all(index, np.float32([[0]]), 10_000, by_position(wanted))
    assert whole.scores.shape == (1, 531) and whole.members.tolist() == [30] and whole.relevant.tolist() == [6]


def test_batches_are_in_the_queries_order(monkeypatch):
    monkeypatch.setattr(ranking, "MOST_CELLS", 100)
    xq = np.arange(10, dtype=np.float32)[:, None]
    batches = list(ranking.rank_all(one_dimensional(list(range(60))), xq, 3, by_position([])))
    assert [ranks.queries.tolist() for ranks in batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_only_a_refiner_makes_results_depend_on_k():
    codebooks, codes, _ = refined_codes()
    refined = build_index(codebooks, codes, "pqfs", refine=True)
    mapped = build_index(codebooks, codes, "pqfs", refine=True, ids=np.arange(3000))
    assert ranking.depends_on_k(refined) and ranking.depends_on_k(mapped) and ranking.depends_on_k(transformed(refined))
    for plain in (*(make() for make in INDEXES.values()), build_index(codebooks, codes, "pqfs", ids=np.arange(3000))):
        assert not ranking.depends_on_k(plain)


def test_scores_are_larger_where_better():
    x = np.float32([[1, 0], [2, 0]])
    for index, scores in ((faiss.IndexFlatL2(2), [[0, -1]]), (faiss.IndexFlatIP(2), [[2, 1]])):
        index.add(x)
        D, I = ranking.search(index, x[:1], 2)
        assert D.tolist() == scores and I.tolist() == ([[0, 1]] if scores[0][0] == 0 else [[1, 0]])
