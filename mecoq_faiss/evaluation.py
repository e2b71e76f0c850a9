"""How good a ranking is: MAP, precision and recall, the same whatever the order of the database.

Short codes tie: many items get exactly one query's score, and a search breaks such ties by position. A figure that
depends on the position says nothing of the codes, so with `scores` every function here gives the *expected value
over random orders of the items with equal scores*. Let a tie group start after s ranks that hold c relevant items,
and have m members of which r are relevant. Its j-th rank then holds

    a relevant item with probability            r / m
    a relevant item at an expected precision    r / m * (c + 1 + (j - 1) (r - 1) / (m - 1)) / (s + j)   (their product)

and summed over the first u ranks of the group, with h = sum_j 1 / (s + j), the second line is

    r / m * ((c + 1) h + (r - 1) / (m - 1) * (u - (s + 1) h)).

Without ties (m = 1) this is the usual definition. Where the cut-off at k splits a group, the number X of relevant items
above the cut-off is hypergeometric, and the average precision is the expectation over X of

    (sum of the groups before + X (c + 1) h / u + X (X - 1) (u - (s + 1) h) / (u (u - 1))) / (c + X).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tied = tuple[ArrayLike, ArrayLike]


class _Groups(NamedTuple):
    """Tie groups of all queries one after the other; all but `start` are (G,) and int64."""

    start: Ints  # (nq,) index of each query's first group
    query: Ints
    before: Ints  # ranks before the group (s)
    ranks: Ints  # ranks above the cut-off (u)
    members: Ints  # size of the whole group (m)
    relevant: Ints  # relevant items of the whole group (r)
    found: Ints  # relevant items in the ranks before the group (c)


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
        relevance: (nq, n) 0/1, in ranked order; only ranks up to k count (and those tied with rank k).
        k: the cut-off; a ranking shorter than k is taken whole.
        scores: (nq, n), larger is better, non-increasing in each row; None for a ranking without ties.
        num_relevant: (nq,) relevant items in the whole database. Given, AP is divided by it (Eq. 18); by default
            it is divided by the number of relevant items among the top k, the usual convention, and is 0 without any.
        tied: (members, relevant), each (nq,): size and relevant items of the tie group that holds rank k, where it goes
            on beyond the n columns; by default they are counted in the columns.

    Raises:
        ValueError: for arrays that do not fit together, relevance that is not 0/1, or scores that increase.
    """
    groups, k = _tie_groups(relevance, k, scores, tied)
    start, _, before, ranks, members, relevant, found = groups
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, k + 1))])
    h = harmonic[before + ranks] - harmonic[before]  # (G,)
    spread = ranks - (before + 1) * h  # (G,) sum over the group's ranks of (j - 1) / (s + j)
    pair = (relevant - 1) / np.maximum(members - 1, 1)
    gain = relevant / members * ((found + 1) * h + pair * spread)  # (G,)
    if num_relevant is not None:
        total = np.asarray(num_relevant)
        if total.shape != start.shape:
            raise ValueError(f"num_relevant has shape {total.shape}, want one count a query: {start.shape}")
        return np.add.reduceat(gain, start) / np.maximum(total, 1)

    last = np.append(start[1:], len(gain)) - 1  # (nq,) each query's group at the cut-off
    split = last[members[last] > ranks[last]]  # groups of which only a part is above it
    whole = gain.copy()
    whole[split] = 0
    summed = np.add.reduceat(whole, start)
    ap = summed / np.maximum(found[last] + relevant[last], 1)
    if len(split):
        u, c = ranks[split, None], found[split, None]
        x, chance = _hypergeometric(members[split], relevant[split], ranks[split])
        linear = (found[split] + 1) * h[split] / ranks[split]
        square = spread[split] / np.maximum(u[:, 0] * (u[:, 0] - 1), 1)
        rows = groups.query[split]
        value = summed[rows, None] + linear[:, None] * x + square[:, None] * x * (x - 1)
        ap[rows] = (chance * value / np.maximum(c + x, 1)).sum(1)
    return ap


def mean_average_precision(
    relevance: ArrayLike,
    k: int,
    *,
    scores: ArrayLike | None = None,
    num_relevant: ArrayLike | None = None,
    tied: Tied | None = None,
) -> float:
    """MAP@k (Eq. 18): the mean of `average_precision` over the queries, which documents the arguments."""
    return float(average_precision(relevance, k, scores=scores, num_relevant=num_relevant, tied=tied).mean())


def expected_relevance(
    relevance: ArrayLike, k: int, *, scores: ArrayLike | None = None, tied: Tied | None = None
) -> Floats:
    """Probability that each of the first k ranks is relevant, float64 (nq, k); arguments as `average_precision`."""
    groups, k = _tie_groups(relevance, k, scores, tied)
    return np.repeat(groups.relevant / groups.members, groups.ranks).reshape(-1, k)


def precision_at(
    relevance: ArrayLike,
    ns: Sequence[int],
    *,
    scores: ArrayLike | None = None,
    tied: Tied | None = None,
) -> Floats:
    """Mean over the queries of the relevant share of the first n ranks, float64 (len(ns),).

    `tied` belongs to rank max(ns). Raises ValueError for an n outside 1 .. number of columns.
    """
    cuts = np.asarray(ns, dtype=np.int64)
    width = np.shape(relevance)[-1]
    if cuts.size == 0 or cuts.min() < 1 or cuts.max() > width:
        raise ValueError(f"ns must lie in 1..{width}, the ranks given; got {list(ns)}: rank more items")
    expected = expected_relevance(relevance, int(cuts.max()), scores=scores, tied=tied)
    return np.cumsum(expected.mean(0))[cuts - 1] / cuts


def precision_recall_curve(
    relevance: ArrayLike,
    num_relevant: ArrayLike,
    *,
    k: int | None = None,
    scores: ArrayLike | None = None,
    tied: Tied | None = None,
) -> tuple[Floats, Floats]:
    """Precision and recall at each of the first k ranks (all by default), means over the queries, each float64 (k,).

    A query that has no relevant item in the database counts with recall 0. Arguments as `average_precision`.
    """
    expected = expected_relevance(relevance, k or np.shape(relevance)[-1], scores=scores, tied=tied)
    total = np.maximum(np.asarray(num_relevant), 1)[:, None]  # (nq, 1)
    ranks = np.arange(1, expected.shape[1] + 1)
    return np.cumsum(expected.mean(0)) / ranks, np.cumsum((expected / total).mean(0))


def recall_at_k(I: ArrayLike, I_exact: ArrayLike, k: int) -> float:
    """Mean share of the exact neighbours `I_exact[:, :k]` found among `I[:, :k]`; ids int64, -1 = nothing found.

    With one column in `I_exact` this is FAISS's 1-recall@k; with k or more, the overlap of the two top k.
    """
    found, exact = np.asarray(I)[:, :k], np.asarray(I_exact)[:, :k]
    if len(found) != len(exact):
        raise ValueError(f"I has {len(found)} rows and I_exact {len(exact)}: give the same queries to both")
    both = np.sort(np.concatenate([found, exact], axis=1), axis=1)
    return float(((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum() / max((exact >= 0).sum(), 1))


def is_relevant(labels_q: ArrayLike, labels_db: ArrayLike, I: ArrayLike) -> NDArray[np.bool_]:
    """Whether each retrieved item shares a label with its query, bool (nq, k).

    Args:
        labels_q, labels_db: (nq,) and (n,) integer classes, or (nq, L) and (n, L) 0/1 label sets.
        I: (nq, k) positions in the database; -1 (nothing found) is not relevant.
    """
    words_q, words_db = label_words(labels_q, labels_db)
    return shares_label(words_q, words_db, np.asarray(I))


def label_words(labels_q: ArrayLike, labels_db: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels ready for `shares_label`: classes as they are, (n, L) label sets as 64-bit words, uint64 (n, words)."""
    q, db = np.asarray(labels_q), np.asarray(labels_db)
    if q.ndim != db.ndim or q.ndim not in (1, 2) or q.shape[1:] != db.shape[1:]:
        raise ValueError(
            f"labels have shapes {q.shape} and {db.shape}: give classes (nq,) and (n,), or 0/1 (nq, L) and (n, L)"
        )
    return (q, db) if q.ndim == 1 else (_pack(q), _pack(db))


def shares_label(words_q: NDArray[Any], words_db: NDArray[Any], I: NDArray[Any]) -> NDArray[np.bool_]:
    """`is_relevant` for labels that went through `label_words` once."""
    if words_q.ndim == 1:
        return (words_db[I] == words_q[:, None]) & (I >= 0)
    shared = np.zeros(I.shape, dtype=bool)
    for word in range(words_q.shape[1]):
        shared |= (words_db[I, word] & words_q[:, word, None]) != 0
    return shared & (I >= 0)


def _pack(labels: NDArray[Any]) -> NDArray[np.uint64]:
    bits = np.packbits(labels.astype(bool), axis=1)  # (n, bytes)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def _tie_groups(relevance: ArrayLike, k: int, scores: ArrayLike | None, tied: Tied | None) -> tuple[_Groups, int]:
    rel = np.asarray(relevance)
    if rel.ndim != 2 or rel.size == 0 or k < 1:
        raise ValueError(f"want relevance (nq, n) with at least one entry and k >= 1; got {rel.shape} and k={k}")
    if rel.dtype != bool:
        if not np.isin(rel, (0, 1)).all():
            raise ValueError("relevance must be 0 or 1 in ranked order; use is_relevant() to make it")
        rel = rel.astype(bool)
    nq, n = rel.shape
    k = min(k, n)
    first = np.ones((nq, k), dtype=bool)
    beyond = np.zeros((nq, n - k), dtype=bool)
    if scores is not None:
        D = np.asarray(scores)
        if D.shape != rel.shape or (D[:, 1:] > D[:, :-1]).any():
            raise ValueError(f"scores must be {rel.shape} and non-increasing in each row: negate distances")
        first[:, 1:] = D[:, 1:k] != D[:, : k - 1]
        beyond = D[:, k:] == D[:, k - 1 : k]
    begin = np.flatnonzero(first)
    query, before = np.divmod(begin, k)
    ranks = np.diff(begin, append=nq * k)
    count = np.concatenate([[0], np.cumsum(rel[:, :k])])  # relevant items in the first i ranks of all queries
    hits = count[begin + ranks] - count[begin]
    found = count[begin] - count[query * k]
    start = np.flatnonzero(before == 0)
    last = np.append(start[1:], len(begin)) - 1
    members, relevant = ranks.copy(), hits.copy()
    if tied is None:
        members[last] += beyond.sum(1)
        relevant[last] += (beyond & rel[:, k:]).sum(1)
    else:
        members[last], relevant[last] = np.asarray(tied[0]), np.asarray(tied[1])
        if (members[last] < ranks[last]).any() or (relevant[last] < hits[last]).any():
            raise ValueError("tied must count the whole group at rank k, so no fewer than the ranking itself shows")
    return _Groups(start, query, before, ranks, members, relevant, found), k


def _hypergeometric(members: Ints, relevant: Ints, draws: Ints) -> tuple[Floats, Floats]:
    """Support and probabilities, both (b, w), of the relevant items among `draws` of `members`, each (b,)."""
    low = np.maximum(0, draws - (members - relevant))
    high = np.minimum(relevant, draws)
    x = (low[:, None] + np.arange((high - low).max() + 1)).astype(np.float64)  # (b, w)
    m, r, u = members[:, None], relevant[:, None], draws[:, None]
    step = np.maximum((r - x + 1) * (u - x + 1), 1) / np.maximum(x * (m - r - u + x), 1)  # P(x) / P(x - 1)
    log = np.log(step)
    log[:, 0] = 0
    log = np.where(x <= high[:, None], np.cumsum(log, axis=1), -np.inf)
    chance = np.exp(log - log.max(1, keepdims=True))
    return x, chance / chance.sum(1, keepdims=True)
