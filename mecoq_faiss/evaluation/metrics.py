"""How good a ranking is: MAP@k, precision, recall; the same whatever the order of the database.

The functions of arrays take a ranking's relevance (nq, n), 0/1, and with `scores` give expected values over random
orders of the items with equal scores (see `ties`). The `evaluate_*` functions search an index and need no such care.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mecoq_faiss.evaluation.ranking import Ranks, depends_on_k, rank_all
from mecoq_faiss.evaluation.relevance import LabelMatch
from mecoq_faiss.evaluation.ties import (
    Floats,
    Ints,
    Tied,
    TieGroups,
    expected_average_precision,
    expected_precision_sum,
    expected_relevance,
    tie_groups,
)

FIRST_RANKS = (1, 10, 100)
"""Numbers of first results whose precision `evaluate_search` tells beside MAP."""


def average_precision(
    relevance: ArrayLike,
    k: int,
    *,
    scores: ArrayLike | None = None,
    num_relevant: ArrayLike | None = None,
    tied: Tied | None = None,
) -> Floats:
    """AP@k of each query, float64 (nq,) in [0, 1].

    Args:
        relevance: (nq, n) 0/1, in ranked order; only ranks up to k count, and those that tie with rank k.
        k: the cut-off; a ranking shorter than k is taken whole.
        scores: (nq, n), larger is better, non-increasing in each row; None for a ranking without ties.
        num_relevant: (nq,) relevant items in the whole database. Given, AP is divided by it (Eq. 18); by default
            it is divided by the number of relevant items among the top k, the usual convention, and is 0 without any.
        tied: (members, relevant), each (nq,): size and relevant items of the tie group that holds rank k, where it
            goes on beyond the n columns; by default they are counted in the columns.

    Raises:
        ValueError: for arrays that do not fit together, relevance that is not 0/1, or scores that increase.
    """
    groups = tie_groups(relevance, k, scores, tied)
    if num_relevant is None:
        return expected_average_precision(groups)
    total = np.asarray(num_relevant)
    if total.shape != groups.start.shape:
        raise ValueError(f"num_relevant is {total.shape}: give one count a query, {groups.start.shape}")
    return expected_precision_sum(groups) / np.maximum(total, 1)


def mean_average_precision(
    relevance: ArrayLike,
    k: int,
    *,
    scores: ArrayLike | None = None,
    num_relevant: ArrayLike | None = None,
    tied: Tied | None = None,
) -> float:
    """MAP@k, the mean over the queries of `average_precision`; it is Eq. 18 where `num_relevant` is given.

    Args:
        relevance: (nq, n) 0/1, in ranked order.
        k: the cut-off.
        scores: (nq, n), larger is better; None for a ranking without ties.
        num_relevant: (nq,) relevant items in the whole database, by which Eq. 18 divides; by default those among the
            top k.
        tied: (members, relevant), each (nq,), of the tie group at rank k where it goes on beyond the n columns.

    Raises:
        ValueError: for arrays that do not fit together, relevance that is not 0/1, or scores that increase.
    """
    return float(average_precision(relevance, k, scores=scores, num_relevant=num_relevant, tied=tied).mean())


def precision_at(
    relevance: ArrayLike, ns: Sequence[int], *, scores: ArrayLike | None = None, tied: Tied | None = None
) -> Floats:
    """Mean over the queries of the relevant share of the first n ranks, float64 (len(ns),).

    Args:
        relevance: (nq, n) 0/1, in ranked order.
        ns: numbers of first ranks, each 1 .. n.
        scores: (nq, n), larger is better; None for a ranking without ties.
        tied: (members, relevant), each (nq,), of the tie group at rank max(ns) where it goes on beyond the n columns.

    Raises:
        ValueError: for an n outside 1 .. number of columns, or arrays that do not fit together.
    """
    cuts = np.asarray(ns, dtype=np.int64)
    width = np.shape(relevance)[-1]
    if cuts.size == 0 or cuts.min() < 1 or cuts.max() > width:
        raise ValueError(f"ns = {list(ns)}: every n must lie in 1..{width}, the ranks given")
    expected = expected_relevance(tie_groups(relevance, int(cuts.max()), scores, tied))
    return np.cumsum(expected.mean(0))[cuts - 1] / cuts


def precision_recall_curve(
    relevance: ArrayLike,
    num_relevant: ArrayLike,
    *,
    k: int | None = None,
    scores: ArrayLike | None = None,
    tied: Tied | None = None,
) -> tuple[Floats, Floats]:
    """Precision and recall at each of the first k ranks (by default all), means over the queries, each float64 (k,).

    Args:
        relevance: (nq, n) 0/1, in ranked order.
        num_relevant: (nq,) relevant items of the whole database; a query without any has recall 0.
        k: how many ranks.
        scores: (nq, n), larger is better; None for a ranking without ties.
        tied: (members, relevant), each (nq,), of the tie group at rank k where it goes on beyond the n columns.
    """
    groups = tie_groups(relevance, np.shape(relevance)[-1] if k is None else k, scores, tied)
    return _curve(expected_relevance(groups), np.asarray(num_relevant))


def recall_at_k(I: ArrayLike, I_exact: ArrayLike, k: int) -> float:
    """Share of the exact neighbours `I_exact[:, :k]` found among `I[:, :k]`; ids are integers, -1 is no neighbour.

    With one column in `I_exact` it is FAISS's 1-recall@k; with k or more, the overlap of both top k.
    """
    found, exact = np.asarray(I)[:, :k], np.asarray(I_exact)[:, :k]
    if len(found) != len(exact):
        raise ValueError(f"I has {len(found)} rows and I_exact {len(exact)}: give the same queries to both")
    both = np.sort(np.concatenate([found, exact], axis=1), axis=1)
    return float(((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum() / max((exact >= 0).sum(), 1))


def is_relevant(labels_q: ArrayLike, labels_db: ArrayLike, I: ArrayLike) -> NDArray[np.bool_]:
    """Whether each item found shares a label with its query, bool (nq, k).

    Args:
        labels_q: (nq,) integer classes, or (nq, L) 0/1 sets of labels.
        labels_db: (n,) or (n, L), the same of the database.
        I: (nq, k) positions in the database; -1 (nothing found) is not relevant.
    """
    found = np.asarray(I, dtype=np.int64)
    if found.ndim != 2 or len(found) != len(np.asarray(labels_q)):
        raise ValueError(
            f"I is {found.shape}: want (nq, k) with one row for each of the {len(np.asarray(labels_q))} queries"
        )
    return LabelMatch(labels_q, labels_db)(np.arange(len(found)), found)


def count_relevant(labels_q: ArrayLike, labels_db: ArrayLike) -> Ints:
    """Items of the database that share a label with each query, int64 (nq,).

    Args:
        labels_q: (nq,) integer classes, or (nq, L) 0/1 sets of labels.
        labels_db: (n,) or (n, L), the same of the database.
    """
    return LabelMatch(labels_q, labels_db).counts()


def evaluate_search(index: Any, xq: NDArray[Any], labels_q: ArrayLike, labels_db: ArrayLike, k: int) -> dict[str, Any]:
    """Search an index for every query and judge the first k ranks by the labels, in batches.

    Args:
        index: a FAISS index, float or binary, that holds item i of the database at position (id) i.
        xq: queries as `index.search` takes them, (nq, d) float32 or (nq, d / 8) uint8.
        labels_q: (nq,) integer classes, or (nq, L) 0/1 sets of labels.
        labels_db: (n,) or (n, L), the same of the database.
        k: the cut-off, at most the index's size.

    Returns:
        `map` MAP@k over the relevant items found, `map_all` MAP@k over all relevant items (Eq. 18), `ap` (nq,) the
        terms of `map`, `precision` and `recall` (k,) at each rank, `precision_at_1`, `precision_at_10` and
        `precision_at_100` (nq,) each query's relevant share of the first n (those n that are at most k and the
        index's size); float64, expected values over ties. Where an index's results depend on k (see `ranking`), these
        precisions are those of searches for n results, all else of one for k.
    """
    nq = len(xq)
    match = LabelMatch(labels_q, labels_db)
    if len(match.q) != nq or len(match.db) != index.ntotal:
        raise ValueError(
            f"{len(match.q)} labels for {nq} queries, {len(match.db)} for {index.ntotal} items: give one label each"
        )
    total = match.counts()
    ap, sums = np.empty(nq), np.empty(nq)
    curves = np.zeros((2, min(k, index.ntotal)))
    first = {n: np.empty(nq) for n in FIRST_RANKS if n <= min(k, index.ntotal)}
    for ranks in rank_all(index, xq, k, match):
        groups = _groups(ranks)
        ap[ranks.queries] = expected_average_precision(groups)
        sums[ranks.queries] = expected_precision_sum(groups)
        expected = expected_relevance(groups)
        curves += np.stack(_curve(expected, total[ranks.queries])) * (len(ranks.queries) / nq)
        for n, precision in first.items():
            precision[ranks.queries] = expected[:, :n].mean(1)
    for n, precision in first.items() if depends_on_k(index) else ():
        for ranks in rank_all(index, xq, n, match):
            precision[ranks.queries] = expected_relevance(_groups(ranks)).mean(1)
    every = sums / np.maximum(total, 1)
    return {
        "map": float(ap.mean()),
        "map_all": float(every.mean()),
        "ap": ap,
        "precision": curves[0],
        "recall": curves[1],
        **{f"precision_at_{n}": precision for n, precision in first.items()},
    }


def neighbor_recall(index: Any, xq: NDArray[Any], I_exact: ArrayLike, k: int) -> Floats:
    """Share of each query's exact neighbours among the first k results, its expected value over ties, float64 (nq,).

    Args:
        index: a FAISS index, float or binary, that holds item i of the database at position (id) i.
        xq: queries as `index.search` takes them, (nq, d) float32 or (nq, d / 8) uint8.
        I_exact: (nq, >= k) ids of each query's nearest items by an exhaustive search, -1 for none; or fewer columns,
            of what is sought. A query without any has recall 0.
        k: how many results count.
    """
    exact = np.asarray(I_exact)[:, :k]
    found = np.empty(len(xq))
    for ranks in rank_all(index, xq, k, lambda q, I: (I[:, :, None] == exact[q, None, :]).any(2) & (I >= 0)):
        found[ranks.queries] = expected_relevance(_groups(ranks)).sum(1)
    return found / np.maximum((exact >= 0).sum(1), 1)


def evaluate_neighbors(index: Any, xq: NDArray[Any], I_exact: ArrayLike, k: int) -> float:
    """Recall@k without labels: `recall_at_k` of the index's results, its expected value over ties.

    It is the mean of `neighbor_recall`, which documents the arguments, over the queries' exact neighbours.
    """
    count = (np.asarray(I_exact)[:, :k] >= 0).sum(1)
    return float(neighbor_recall(index, xq, I_exact, k) @ count / max(count.sum(), 1))


def _groups(ranks: Ranks) -> TieGroups:
    return tie_groups(ranks.relevance, ranks.relevance.shape[1], ranks.scores, (ranks.members, ranks.relevant))


def _curve(expected: Floats, num_relevant: Ints) -> tuple[Floats, Floats]:
    ranks = np.arange(1, expected.shape[1] + 1)
    recall = expected / np.maximum(num_relevant, 1)[:, None]
    return np.cumsum(expected.mean(0)) / ranks, np.cumsum(recall.mean(0))
