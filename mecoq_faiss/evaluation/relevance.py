"""Which items are relevant to a query: those of its class, or those that share a label with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PART = 1 << 20


class LabelMatch:
    """Relevance by labels; an instance is what `ranking.rank_all` asks about the items found.

    Args:
        labels_q, labels_db: (nq,) and (n,) integer classes, or (nq, L) and (n, L) 0/1 sets of labels, which are kept
            as 64-bit words.

    Raises:
        ValueError: for labels that are not one of the two forms on both sides.
    """

    def __init__(self, labels_q: ArrayLike, labels_db: ArrayLike) -> None:
        q, db = np.asarray(labels_q), np.asarray(labels_db)
        if q.ndim != db.ndim or q.ndim not in (1, 2) or q.shape[1:] != db.shape[1:]:
            raise ValueError(f"labels {q.shape} and {db.shape}: give classes (nq,), (n,) or 0/1 sets (nq, L), (n, L)")
        self.sets = q.ndim == 2
        self.q: NDArray[Any] = _words(q) if self.sets else q
        self.db: NDArray[Any] = _words(db) if self.sets else db

    def __call__(self, queries: NDArray[np.int64], I: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each item of I (b, w) is relevant to its query (b,), bool (b, w); -1 (nothing found) is not."""
        if not self.sets:
            return (self.db[I] == self.q[queries, None]) & (I >= 0)
        shared = np.zeros(I.shape, dtype=bool)
        for q, db in zip(self.q.T, self.db.T, strict=True):  # one word of each label set
            shared |= (db[I] & q[queries, None]) != 0
        return shared & (I >= 0)

    def counts(self) -> NDArray[np.int64]:
        """Relevant items in the whole database for each query, int64 (nq,)."""
        if not self.sets:
            classes, counts = np.unique(self.db, return_counts=True)
            place = np.minimum(np.searchsorted(classes, self.q), len(classes) - 1)
            return np.where(classes[place] == self.q, counts[place], 0)
        sets_db, counts = _distinct(self.db)
        sets_q, query = np.unique(self.q, axis=0, return_inverse=True)
        shared = [((sets_db & one) != 0).any(1) @ counts for one in sets_q]
        return np.array(shared, dtype=np.int64)[query.ravel()]


def same_classes(
    labels_q: NDArray[Any], names_q: Sequence[str], labels_db: NDArray[Any], names_db: Sequence[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of queries and database in one numbering: classes are matched by name.

    Raises ValueError for sets of labels with other names, and for classes that share no name.
    """
    if list(names_q) == list(names_db):
        return labels_q, labels_db
    if labels_q.ndim != 1 or labels_db.ndim != 1:
        raise ValueError("queries and database have different label sets: give both the same")
    known = {name: i for i, name in enumerate(names_db)}
    if not known.keys() & set(names_q):
        raise ValueError(f"queries ({', '.join(names_q[:3])} ...) and database share no class name: check the folders")
    number = np.array([known.get(name, len(known) + i) for i, name in enumerate(names_q)])
    return number[labels_q], labels_db


def _words(labels: NDArray[Any]) -> NDArray[np.uint64]:
    """(n, L) 0/1 as (n, ceil(L / 64)) words."""
    bits = np.packbits(labels.astype(bool), axis=1)  # (n, bytes)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def _distinct(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct rows and how often each occurs; a part of the rows at a time, since sorting them takes copies."""
    parts = [np.unique(words[i : i + PART], axis=0, return_counts=True) for i in range(0, len(words), PART)]
    rows, row = np.unique(np.concatenate([part[0] for part in parts]), axis=0, return_inverse=True)
    counts = np.zeros(len(rows), dtype=np.int64)
    np.add.at(counts, row.ravel(), np.concatenate([part[1] for part in parts]))
    return rows, counts
