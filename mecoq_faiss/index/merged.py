"""The indexes of several shards searched as one: the scores, the rows and their order that the one index gives.

FAISS keeps the k best in a heap. Of equal scores at the k-th place it keeps neither the first nor the last: a row comes
in while fewer than k of its score or a higher one came before, and each higher one after that drives out the lowest row
of that score. Which rows these are follows from all of that score; where shards may have more of them, they are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.filtered import ChosenRows
from mecoq_faiss.index.inspect import pq_core, read_centroids, read_codebooks, without_refiner

LOWEST = np.finfo(np.float32).min  # the score of what is not there


class MergedShards:
    """Shards made ready to be searched many times, also from several threads.

    Of FastScan kinds FAISS takes a reservoir in the heap's place where k exceeds 20 (with a refiner k_factor * k): the
    scores are the one index's then too, but which of the rows that share the last score, and the order of rows that
    share one, are not. So it is for `ivfpq-all` with more than one list.

    Args:
        indexes: of one kind, with the same codebooks and centroids, that return positions (see `without_ids`). A row is
            a position in the last index plus the sizes of all before it.
        rows: the positions (m,) int64 of each that may be returned; None for all.
    """

    def __init__(self, indexes: Sequence[faiss.Index], rows: Sequence[np.ndarray] | None = None) -> None:
        self._indexes: list[Any] = [faiss.downcast_index(index) for index in indexes]
        self._cores = [pq_core(index) for index in indexes]
        bases = [without_refiner(index) for index in indexes]
        self._searched: list[Any] = list(bases)
        if rows is not None:
            self._searched = [ChosenRows(base, chosen) for base, chosen in zip(bases, rows, strict=True)]
        self._counts = [index.ntotal for index in indexes] if rows is None else list(map(len, self._searched))
        self._starts = np.cumsum([0, *(index.ntotal for index in indexes)]).tolist()
        self._lists: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def first(self) -> faiss.Index:
        """The first shard's index, of the kind of all."""
        return self._indexes[0]

    @property
    def ntotal(self) -> int:
        """How many items there are, whatever the rows that may be returned."""
        return self._starts[-1]

    @property
    def metric_type(self) -> int:
        """FAISS's number of the metric."""
        return self._indexes[0].metric_type

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(D, I) of queries (nq, d) float32, as `index.search` gives them; the last I are -1 where fewer are found."""
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        D, I = np.full((len(xq), k), LOWEST, np.float32), np.full((len(xq), k), -1, np.int64)
        few = min(k, len(self))
        if few and len(xq):
            refined = isinstance(self._indexes[0], faiss.IndexRefine)
            D[:, :few], I[:, :few] = (self._refined if refined else self._merged)(xq, few)
        return D, I

    def _merged(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best without exact scoring."""
        Ds = np.full((len(self._searched), len(xq), k), LOWEST, np.float32)
        Is = np.full(Ds.shape, -1, np.int64)
        more = np.zeros(Ds.shape[:2], bool)  # whether a shard may hold more of the last score that it gave
        for number, (D, I) in enumerate(self._each(xq, k)):
            Ds[number, :, : D.shape[1]], Is[number, :, : D.shape[1]] = D, I
            if D.shape[1] < self._counts[number]:
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
            D[queries], I[queries] = self._decided(xq, k, queries, last[queries])
        return D, I

    def _each(self, xq: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """What each shard finds, its own k or fewer; as many at once as there are threads."""
        numbers = range(len(self._counts))
        threads = faiss.omp_get_max_threads()
        at_once = min(threads, len(numbers))
        if at_once == 1:
            return [self._of_one(number, xq, k) for number in numbers]
        with ThreadPoolExecutor(at_once, initializer=faiss.omp_set_num_threads, initargs=(threads // at_once,)) as pool:
            return list(pool.map(lambda number: self._of_one(number, xq, k), numbers))

    def _of_one(self, number: int, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self._counts[number])
        if not k:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        D, I = self._searched[number].search(xq, k)
        return D, np.where(I >= 0, I + self._starts[number], -1)

    def _decided(self, xq: np.ndarray, k: int, queries: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best of some queries (m,), whose k-th scores are `last` (m,).

        All are searched again: of a single query FAISS's scores may differ in their last bits from those of many.
        """
        reaching = [self._reaching(number, xq, k, queries, last) for number in range(len(self._searched))]
        D, I = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for i, of_shards in enumerate(zip(*reaching, strict=True)):
            scores, rows = (np.concatenate(parts) for parts in zip(*of_shards, strict=True))
            order = np.lexsort((rows, self._visited(xq[queries[i] : queries[i] + 1], rows)))
            D[i], I[i] = kept_in_heap(scores[order], rows[order], k)
        return D, I

    def _reaching(
        self, number: int, xq: np.ndarray, k: int, queries: np.ndarray, last: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each of some queries the scores (m,) of at least `last` and their rows (m,), all that a shard has."""
        while True:
            D, I = (found[queries] for found in self._of_one(number, xq, k))
            if k >= self._counts[number] or ((I[:, -1] < 0) | (D[:, -1] < last)).all():
                there = (I >= 0) & (last[:, None] <= D)
                return [(D[i, has], I[i, has]) for i, has in enumerate(there)]
            k = 2 * k

    def _visited(self, xq: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """When one index would come to the lists of some rows (m,), as numbers (m,) that rise."""
        core = self._cores[0]
        if not isinstance(core, faiss.IndexIVF) or core.by_residual:
            return np.zeros(len(rows), np.int64)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        lists = np.empty(len(rows), np.int64)
        for number in np.unique(owner).tolist():
            here = owner == number
            lists[here] = self._lists_of(number)[rows[here] - self._starts[number]]
        if isinstance(core, faiss.IndexIVFPQFastScan):
            return lists
        ranks = np.full(core.nlist, core.nlist)
        ranks[core.quantizer.search(xq, core.nprobe)[1][0]] = np.arange(core.nprobe)
        return ranks[lists]

    def _lists_of(self, number: int) -> np.ndarray:
        """The list of each row of a shard, (n,)."""
        if number not in self._lists:
            core = self._cores[number]
            lists = np.empty(core.ntotal, np.min_scalar_type(core.nlist))
            for i in range(core.nlist):
                size = core.invlists.list_size(i)
                if size:
                    lists[faiss.rev_swig_ptr(core.invlists.get_ids(i), size)] = i
            self._lists[number] = lists
        return self._lists[number]

    def _refined(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of the exact scores of what the FastScan kinds find."""
        wide = int(np.float32(k) * np.float32(self._indexes[0].k_factor))
        _, base = self._merged(xq, wide)
        D, I = np.full((len(xq), k), LOWEST, np.float32), np.full((len(xq), k), -1, np.int64)
        exact = [index.refine_index.get_distance_computer() for index in self._indexes]
        for q, rows in enumerate(base):
            rows = rows[rows >= 0]
            for computer in exact:
                computer.set_query(faiss.swig_ptr(xq[q : q + 1]))
            owner = np.searchsorted(self._starts, rows, side="right") - 1
            places = rows - np.asarray(self._starts)[owner]
            pairs = zip(owner.tolist(), places.tolist(), strict=True)
            scores = np.array([exact[number](place) for number, place in pairs], np.float32)
            found = kept_in_heap(scores, rows, k)
            D[q, : len(found[0])], I[q, : len(found[0])] = found
        return D, I


def check_shards(indexes: Sequence[faiss.Index]) -> None:
    """ValueError unless indexes, already compared in kind and settings, have the same codebooks and centroids."""
    codebooks, centroids = read_codebooks(indexes[0]), read_centroids(indexes[0])
    for number, index in enumerate(indexes[1:], 1):
        same = np.array_equal(read_codebooks(index), codebooks)
        if centroids is not None and same:
            own = read_centroids(index)
            same = own is not None and np.array_equal(own, centroids)
        if not same:
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
