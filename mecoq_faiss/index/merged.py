"""The indexes of several shards searched as one: the scores, the rows and their order that the one index gives.

FAISS keeps the k best in a heap. Of equal scores at the k-th place it keeps neither the first nor the last: a row comes
in while fewer than k of its score or a higher one came before, and each higher one after that drives out the lowest row
of that score. Which rows these are follows from all of that score; where shards may have more of them, they are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np

from mecoq_faiss.index.part import IndexPart, Part, PartLost

LOWEST = np.finfo(np.float32).min  # the score of what is not there


class MergedShards:
    """Shards made ready to be searched many times, also from several threads.

    Of FastScan kinds FAISS takes a reservoir in the heap's place where k exceeds 20 (with a refiner k_factor * k): the
    scores are the one index's then too, but which of the rows that share the last score, and the order of rows that
    share one, are not. So it is for `ivfpq-all` with more than one list.

    Args:
        parts: of one kind, with the same codebooks and centroids. A row is a position in the last shard plus the sizes
            of all before it.
        at_once: parts that are searched at the same time; by default as many as FAISS has threads.
    """

    def __init__(self, parts: Sequence[Part], at_once: int | None = None) -> None:
        self._parts, self._form, self._at_once = parts, parts[0].form, at_once
        self._counts = list(map(len, parts))
        self._starts = np.cumsum([0, *(part.total for part in parts)])

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def first(self) -> faiss.Index:
        """The first shard's index, of the kind of all."""
        part = self._parts[0]
        assert isinstance(part, IndexPart)
        return part.index

    @property
    def ntotal(self) -> int:
        """How many items there are, whatever the rows that may be returned."""
        return int(self._starts[-1])

    @property
    def metric_type(self) -> int:
        """FAISS's number of the metric."""
        return self.first.metric_type

    def search(self, xq: np.ndarray, k: int, missing: set[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(D, I) of queries (nq, d) float32, as `index.search` gives them; the last I are -1 where fewer are found.

        Where a set `missing` is given, parts that do not answer are added to it and left out; else PartLost is raised.
        """
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        D, I = np.full((len(xq), k), LOWEST, np.float32), np.full((len(xq), k), -1, np.int64)
        few = min(k, len(self))
        if few and len(xq):
            found = self._merged if self._form.k_factor is None else self._refined
            D[:, :few], I[:, :few] = found(xq, few, missing)
        return D, I

    def _merged(self, xq: np.ndarray, k: int, missing: set[int] | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best without exact scoring."""
        Ds = np.full((len(self._parts), len(xq), k), LOWEST, np.float32)
        Is = np.full(Ds.shape, -1, np.int64)
        more = np.zeros(Ds.shape[:2], bool)  # whether a shard may hold more of the last score that it gave
        for number, (D, I) in enumerate(self._each(xq, k, missing)):
            Ds[number, :, : D.shape[1]], Is[number, :, : D.shape[1]] = D, I
            if 0 < D.shape[1] < self._counts[number]:
                more[number] = I[:, -1] >= 0
        D, I = faiss.merge_knn_results(Ds, Is, keep_max=True)
        D[I < 0] = LOWEST
        last = D[:, -1]
        equal = ((Ds == last[:, None]) & (Is >= 0)).sum(axis=(0, 2)) > (last[:, None] == D).sum(axis=1)
        undecided = (I[:, -1] >= 0) & (equal | (more & (Ds[:, :, -1] == last)).any(axis=0))
        order = np.lexsort((-I, -D))
        D, I = np.take_along_axis(D, order, 1), np.take_along_axis(I, order, 1)
        queries = np.flatnonzero(undecided)
        if len(queries):
            D[queries], I[queries] = self._decided(xq, k, queries, last[queries], missing)
        return D, I

    def _each(self, xq: np.ndarray, k: int, missing: set[int] | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """What each part finds, its own k or fewer."""
        numbers = range(len(self._parts))
        threads = faiss.omp_get_max_threads()
        at_once = min(self._at_once or threads, len(numbers))
        if at_once == 1:
            return [self._of_one(number, xq, k, missing) for number in numbers]
        each = max(1, threads // at_once)
        with ThreadPoolExecutor(at_once, initializer=faiss.omp_set_num_threads, initargs=(each,)) as pool:
            return list(pool.map(lambda number: self._of_one(number, xq, k, missing), numbers))

    def _of_one(self, number: int, xq: np.ndarray, k: int, missing: set[int] | None) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self._counts[number])
        nothing = np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        if not k or (missing and number in missing):
            return nothing
        try:
            D, I = self._parts[number].search(xq, k)
        except PartLost:
            if missing is None:
                raise
            missing.add(number)
            return nothing
        return D, np.where(I >= 0, I + self._starts[number], -1)

    def _decided(
        self, xq: np.ndarray, k: int, queries: np.ndarray, last: np.ndarray, missing: set[int] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best of some queries (m,), whose k-th scores are `last` (m,).

        All are searched again: of a single query FAISS's scores may differ in their last bits from those of many.
        """
        reaching = [self._reaching(number, xq, k, queries, last, missing) for number in range(len(self._parts))]
        D, I = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for i, of_shards in enumerate(zip(*reaching, strict=True)):
            scores, rows = (np.concatenate(parts) for parts in zip(*of_shards, strict=True))
            order = np.lexsort((rows, self._visited(xq[queries[i] : queries[i] + 1], rows)))
            D[i], I[i] = kept_in_heap(scores[order], rows[order], k)
        return D, I

    def _reaching(
        self, number: int, xq: np.ndarray, k: int, queries: np.ndarray, last: np.ndarray, missing: set[int] | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each of some queries the scores (m,) of at least `last` and their rows (m,), all that a shard has."""
        while True:
            D, I = (found[queries] for found in self._of_one(number, xq, k, missing))
            if not D.shape[1] or k >= self._counts[number] or ((I[:, -1] < 0) | (D[:, -1] < last)).all():
                there = (I >= 0) & (last[:, None] <= D)
                return [(D[i, has], I[i, has]) for i, has in enumerate(there)]
            k = 2 * k

    def _visited(self, xq: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """When one index would come to the lists of some rows (m,), as numbers (m,) that rise."""
        if self._form.order == "rows":
            return np.zeros(len(rows), np.int64)
        lists = np.empty(len(rows), np.int64)
        for number, here, own in self._owners(rows):
            lists[here] = self._parts[number].lists(own)
        if self._form.order == "lists":
            return lists
        turn = self._parts[next(self._owners(rows))[0]].visited(xq)
        order = np.argsort(turn)
        return order[np.searchsorted(turn, lists, sorter=order)]

    def _owners(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each part that some rows (m,) lie in, which of them (m,) bool, and their positions there."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner).tolist():
            here = owner == number
            yield number, here, rows[here] - self._starts[number]

    def _refined(self, xq: np.ndarray, k: int, missing: set[int] | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best of the exact scores of what the FastScan kinds find."""
        assert self._form.k_factor is not None
        wide = int(np.float32(k) * np.float32(self._form.k_factor))
        _, base = self._merged(xq, wide, missing)
        D, I = np.full((len(xq), k), LOWEST, np.float32), np.full((len(xq), k), -1, np.int64)
        for q, rows in enumerate(base):
            rows = rows[rows >= 0]
            scores = np.empty(len(rows), np.float32)
            for number, here, own in self._owners(rows):
                scores[here] = self._parts[number].exact(xq[q : q + 1], own)
            found = kept_in_heap(scores, rows, k)
            D[q, : len(found[0])], I[q, : len(found[0])] = found
        return D, I


def check_shards(fingerprints: Sequence[str]) -> None:
    """ValueError unless indexes, already compared in kind and settings, have the same codebooks and centroids."""
    for number, own in enumerate(fingerprints[1:], 1):
        if own != fingerprints[0]:
            raise ValueError(f"shard {number} has other codebooks or centroids than the first: export the bundle again")


def kept_in_heap(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What FAISS's heap of k keeps of scores (m,) and rows (m,) in the order in which they come: (D, I), best first."""
    if len(scores) > k:
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        better = np.flatnonzero(scores > last)
        early = np.flatnonzero(scores >= last)[:k]
        equal = early[scores[early] == last]
        equal = equal[np.argsort(rows[equal])][len(better) + len(equal) - k :]
        kept = np.concatenate([better, equal])
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((-rows, -scores))
    return scores[order], rows[order]
