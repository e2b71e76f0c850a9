"""Items with equal scores: what a ranking is worth on average over every order of them.

Short codes tie: many items get exactly one query's score, and a search breaks such ties by position. A figure that
depends on the position says nothing of the codes, so the metrics take the *expected value over random orders of the
items with equal scores*. Let a tie group start after s ranks that hold c relevant items, and have m members of which
r are relevant. Its j-th rank holds a relevant item with probability r / m, and is expected to add to the sum of
precisions at relevant ranks

    r / m * (c + 1 + (j - 1) (r - 1) / (m - 1)) / (s + j),

which summed over the first u ranks of the group, with h = sum_j 1 / (s + j), is

    r / m * ((c + 1) h + (r - 1) / (m - 1) * (u - (s + 1) h)).

Without ties (m = 1) this is the usual definition. Where the cut-off at rank k splits a group, the number X of relevant
items above it is hypergeometric, and the average precision over the relevant items above it is the expectation of

    (sum of the groups before + X (c + 1) h / u + X (X - 1) (u - (s + 1) h) / (u (u - 1))) / (c + X).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tied = tuple[ArrayLike, ArrayLike]


class TieGroups(NamedTuple):
    """The tie groups of all queries one after the other; all but `start` and `k` are int64 (G,)."""

    k: int  # the cut-off, at most the ranks given
    start: Ints  # (nq,) index of each query's first group
    query: Ints
    before: Ints  # ranks before the group (s)
    ranks: Ints  # its ranks above the cut-off (u)
    members: Ints  # size of the whole group (m)
    relevant: Ints  # relevant items of the whole group (r)
    found: Ints  # relevant items in the ranks before the group (c)

    @property
    def last(self) -> Ints:
        """(nq,) index of each query's group at the cut-off."""
        return np.append(self.start[1:], len(self.query)) - 1


def tie_groups(relevance: ArrayLike, k: int, scores: ArrayLike | None = None, tied: Tied | None = None) -> TieGroups:
    """Groups of equal `scores` in the first k ranks; without scores each rank is its own group.

    Args:
        relevance: (nq, n) 0/1, in ranked order.
        k: the cut-off; a ranking shorter than k is taken whole.
        scores: (nq, n), non-increasing in each row.
        tied: (members, relevant), each (nq,): size and relevant items of the group that holds rank k in the whole
            database; None counts what the n columns show of it.

    Raises:
        ValueError: for arrays that do not fit together, relevance that is not 0/1, or scores that increase.
    """
    rel = np.asarray(relevance)
    if rel.ndim != 2 or rel.size == 0 or k < 1:
        raise ValueError(f"relevance {rel.shape} at k={k}: want (nq, n) with at least one entry, and k >= 1")
    if rel.dtype != bool:
        if not ((rel == 0) | (rel == 1)).all():
            raise ValueError("relevance must be 0 or 1, in ranked order: make it with is_relevant()")
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
    groups = TieGroups(k, np.flatnonzero(before == 0), query, before, ranks, ranks.copy(), hits.copy(), found)
    last = groups.last
    if tied is None:
        groups.members[last] += beyond.sum(1)
        groups.relevant[last] += (beyond & rel[:, k:]).sum(1)
    else:
        groups.members[last], groups.relevant[last] = np.asarray(tied[0]), np.asarray(tied[1])
        misses = groups.members - groups.relevant
        if (groups.relevant < hits).any() or (misses < ranks - hits).any():
            raise ValueError("tied counts fewer items than the ranking shows: count the whole group at rank k")
    return groups


def expected_relevance(groups: TieGroups) -> Floats:
    """Probability that each of the first k ranks is relevant, float64 (nq, k)."""
    return np.repeat(groups.relevant / groups.members, groups.ranks).reshape(-1, groups.k)


def expected_precision_sum(groups: TieGroups) -> Floats:
    """Expected sum of the precisions at the relevant ones of the first k ranks, float64 (nq,)."""
    return np.add.reduceat(_gain(groups), groups.start)


def expected_average_precision(groups: TieGroups) -> Floats:
    """Expected mean of the precisions at the relevant ones of the first k ranks, float64 (nq,); 0 where none is."""
    gain, last = _gain(groups), groups.last
    split = last[groups.members[last] > groups.ranks[last]]
    gain[split] = 0
    summed = np.add.reduceat(gain, groups.start)
    ap = summed / np.maximum(groups.found[last] + groups.relevant[last], 1)
    if len(split):
        c, u = groups.found[split, None], groups.ranks[split, None]  # (b, 1)
        h, spread = (part[:, None] for part in _harmonic(groups.before[split], groups.ranks[split]))
        x, chance = _hypergeometric(groups.members[split, None], groups.relevant[split, None], u)  # (b, w)
        rows = groups.query[split]
        added = x * (c + 1) * h / u + x * (x - 1) * spread / np.maximum(u * (u - 1), 1)
        ap[rows] = (chance * (summed[rows, None] + added) / np.maximum(c + x, 1)).sum(1)
    return ap


def _gain(groups: TieGroups) -> Floats:
    """What each group adds to the sum of precisions, (G,)."""
    h, spread = _harmonic(groups.before, groups.ranks)
    pair = (groups.relevant - 1) / np.maximum(groups.members - 1, 1)
    return groups.relevant / groups.members * ((groups.found + 1) * h + pair * spread)


def _harmonic(before: Ints, ranks: Ints) -> tuple[Floats, Floats]:
    """Sums over j = 1 .. ranks of 1 / (before + j) and of (j - 1) / (before + j)."""
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, (before + ranks).max() + 1))])
    h = table[before + ranks] - table[before]
    return h, ranks - (before + 1) * h


def _hypergeometric(members: Ints, relevant: Ints, draws: Ints) -> tuple[Floats, Floats]:
    """Support and probabilities, both (b, w), of the relevant items among `draws` of `members`, each (b, 1)."""
    low = np.maximum(0, draws - (members - relevant))
    high = np.minimum(relevant, draws)
    x = (low + np.arange((high - low).max() + 1)).astype(np.float64)  # (b, w)
    ratio = (relevant - x + 1) * (draws - x + 1) / np.maximum(x * (members - relevant - draws + x), 1)
    ratio[:, 0] = 1  # the rest is P(x) / P(x - 1)
    log = np.cumsum(np.log(np.maximum(ratio, 1e-300)), axis=1)
    log = np.where(x <= high, log, -np.inf)
    chance = np.exp(log - log.max(1, keepdims=True))
    return x, chance / chance.sum(1, keepdims=True)
