"""Search, and what each query's first k ranks hold, closed over the ties at the cut-off.

A search returns k of the items that tie at rank k by their position. Here each search goes a little deeper than k,
and again deeper for those queries whose tie group is not yet seen to its end, so that a ranking knows how large the
group at its cut-off is and how many of it are relevant: all that the metrics need to be free of the database's order.
It is exact for every index that gives equal codes equal scores: PQ, FastScan, IVF and binary indexes do.

IndexRefine scores the best k_factor * k of its base index anew, so that its first k results depend on k: a deeper
search would be a better one than the user's. What is judged is its own answer at k, and the tie group at the cut-off is
what that answer shows of it. Of the indexes that this package builds no other depends on k; graph indexes (HNSW, NSG),
whose search widens with k, do, and are not for these functions.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Relevant = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""(queries (b,), I (b, w)) -> bool (b, w): whether each item found is relevant to its query; -1 never is."""

MOST_CELLS = 1 << 20
"""Results held at once: about 100 bytes each, with what the metrics need."""


class Ranks(NamedTuple):
    """The first k ranks of some queries."""

    queries: NDArray[np.int64]  # (b,)
    relevance: NDArray[np.bool_]  # (b, k)
    scores: NDArray[Any]  # (b, k) larger is better
    members: NDArray[np.int64]  # (b,) size of the tie group at rank k in the whole database (see above for IndexRefine)
    relevant: NDArray[np.int64]  # (b,) relevant items in it


def rank_all(index: Any, xq: NDArray[Any], k: int, relevant: Relevant) -> Iterator[Ranks]:
    """Batches of rankings, in the queries' order.

    Args:
        index: a FAISS index, float or binary (queries (nq, d) float32, or (nq, d / 8) uint8), or `MergedShards`.
        xq: the queries.
        k: ranks; no more than the index holds.
        relevant: tells whether items are relevant, see `Relevant`.
    """
    if index.ntotal == 0 or k < 1:
        raise ValueError(f"k={k} of an index of {index.ntotal} items: want k >= 1 and an index that is not empty")
    k = min(k, index.ntotal)
    depth = k if depends_on_k(index) else min(k + max(32, k // 16), index.ntotal)
    for queries in _parts(np.arange(len(xq)), MOST_CELLS // depth):
        yield _rank(index, xq, queries, k, depth, relevant)


def depends_on_k(index: Any) -> bool:
    """Whether the first results of a search depend on how many are asked for.

    They do with an IndexRefine, within id maps, transforms and shards too.
    """
    import faiss

    index = getattr(index, "first", index)
    while isinstance(index, faiss.Index):
        index = faiss.downcast_index(index)
        if isinstance(index, faiss.IndexRefine):
            return True
        index = getattr(index, "index", None)
    return False


def search(index: Any, xq: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """`index.search(xq, k)` with scores for which larger is better: distances are negated."""
    import faiss

    D, I = index.search(xq, k)
    return (D if index.metric_type == faiss.METRIC_INNER_PRODUCT else -D), I


def _rank(index: Any, xq: NDArray[Any], queries: NDArray[np.int64], k: int, depth: int, relevant: Relevant) -> Ranks:
    import faiss

    D, I = search(index, xq[queries], depth)
    relevance = relevant(queries, I)
    tied = D[:, k - 1 : k] == D
    ranks = Ranks(queries, relevance[:, :k], D[:, :k], tied.sum(1), (tied & relevance).sum(1))
    if depth == k:  # the whole index, or all that its answer shows
        return ranks
    unseen = np.flatnonzero(tied[:, -1] & (I[:, -1] >= 0) & (depth < index.ntotal))
    if isinstance(index, faiss.IndexBinaryFlat | faiss.IndexBinaryIVF):
        for part in _parts(unseen, 32 * MOST_CELLS // index.ntotal):
            _count_ties(index, xq, ranks, part, relevant)
        return ranks
    depth = min(4 * depth, index.ntotal)
    for part in _parts(unseen, MOST_CELLS // depth):
        for mine, deeper in zip(ranks, _rank(index, xq, queries[part], k, depth, relevant), strict=True):
            mine[part] = deeper
    return ranks


def _count_ties(index: Any, xq: NDArray[Any], ranks: Ranks, part: NDArray[np.int64], relevant: Relevant) -> None:
    """Hamming distances are few, so that their tie groups may be most of the database: count them by range search."""
    queries, edge = ranks.queries[part], -ranks.scores[part, -1]
    limits, D, I = index.range_search(xq[queries], int(edge.max()) + 1)
    row = np.repeat(np.arange(len(part)), np.diff(limits.astype(np.int64)))
    at_edge = edge[row] == D
    row, I = row[at_edge], I[at_edge]
    hit = relevant(queries[row], I[:, None])[:, 0]
    ranks.members[part] = np.bincount(row, minlength=len(part))
    ranks.relevant[part] = np.bincount(row[hit], minlength=len(part))


def _parts(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    size = max(size, 1)
    return (rows[i : i + size] for i in range(0, len(rows), size))
