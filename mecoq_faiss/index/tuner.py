"""What indexes of stored codes find and how fast, over their kinds and search efforts; and the best of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import faiss
import numpy as np

from mecoq_faiss.index.build import build_index
from mecoq_faiss.index.codes import decode_codes, pair_codebooks
from mecoq_faiss.index.exhaustive import pq
from mecoq_faiss.index.inspect import set_search_effort, without_refiner
from mecoq_faiss.index.inverted_lists import default_nlist

K_FACTORS = (2.0, 4.0, 8.0, 16.0)
REPEATS = 3
TIED = 1e-5  # scores this near are equal
ENOUGH = 0.9995  # a recall beyond which more effort is not tried


class Point(NamedTuple):
    """An index, how it is searched, and what was measured. Settings that its kind does not have are None."""

    kind: str
    nlist: int | None
    nprobe: int | None
    k_factor: float | None
    recall: float
    ms_per_query: float


class Truth:
    """The exhaustive scan of codes (n, M) for queries (nq, D): the k-th best score of each, and its time.

    Attributes: ms_per_query, of FAISS's fastest exact scan of these codes.
    """

    def __init__(
        self, codebooks: np.ndarray, codes: np.ndarray, xq: np.ndarray, k: int, additive: bool = False
    ) -> None:
        self.codebooks, self.codes, self.xq, self.k, self.additive = codebooks, codes, xq, k, additive
        M, K, _ = codebooks.shape
        pairs = K <= 16 and M % 2 == 0  # 8-bit tables of pairs: far faster than FAISS's 4-bit IndexPQ
        self.index = pq(*pair_codebooks(codebooks, codes)) if pairs else pq(codebooks, codes)
        self.kth = self.index.search(xq, k)[0][:, -1]
        self.ms_per_query = self.time(self.index)

    def recall(self, index: faiss.Index) -> float:
        """Share of the k results of each query whose true score reaches the true k-th best: ties count as found."""
        I = index.search(self.xq, self.k)[1]
        x = decode_codes(self.codebooks, self.codes[np.maximum(I, 0).ravel()]).reshape(*I.shape, -1)
        scores = np.einsum("qd,qkd->qk", self.xq, x)
        return float(((scores >= self.kth[:, None] - TIED) & (I >= 0)).mean())

    def time(self, index: faiss.Index, clock: Callable[[], float] = time.thread_time) -> float:
        """Milliseconds a query, all queries in one call on one thread: the best of a few.

        By default the thread's CPU time, so that other programs on the machine do not count.
        """
        seconds = []
        with one_thread():
            for _ in range(REPEATS):
                started = clock()
                index.search(self.xq, self.k)
                seconds.append(clock() - started)
        return 1000 * min(seconds) / len(self.xq)


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def sweep(truth: Truth, *, nlists: Sequence[int] | None = None, kinds: Sequence[str] | None = None) -> list[Point]:
    """Measure every kind that fits the codes, over nlist, nprobe and the refine factor.

    Args:
        truth: the codes, queries and k.
        nlists: numbers of lists to try; by default the usual one and a quarter of it.
        kinds: of `index.KINDS`; by default those of the codes' bits.

    Returns:
        Points in the order of measuring. For an IVF kind nprobe doubles until recall stops growing or an exhaustive
        scan is as fast.
    """
    K, n = truth.codebooks.shape[1], len(truth.codes)
    kinds = kinds or (("pqfs", "ivfpqfs") if K == 16 else ("pq", "ivfpq"))
    if nlists is None:
        nlists = sorted({default_nlist(n), max(1, default_nlist(n) // 4)})
    points: list[Point] = []
    for kind in kinds:
        for nlist in nlists if kind in ("ivfpq", "ivfpqfs") else [None]:
            options = {"refine": kind.endswith("fs"), "nlist": nlist, "additive": truth.additive}
            index = build_index(truth.codebooks, truth.codes, kind, **options)  # type: ignore[arg-type]
            points += _sweep_nprobe(truth, index, kind, nlist)
    return points


def _sweep_nprobe(truth: Truth, index: faiss.Index, kind: str, nlist: int | None) -> list[Point]:
    if nlist is None:
        return _sweep_factor(truth, index, kind, None, None)
    points: list[Point] = []
    for nprobe in [*(2**i for i in range((nlist - 1).bit_length())), nlist]:
        set_search_effort(index, nprobe=nprobe)
        found = _sweep_factor(truth, index, kind, nlist, nprobe)
        points += found
        if found[-1].recall >= ENOUGH or found[0].ms_per_query > truth.ms_per_query:
            break
    return points


def _sweep_factor(truth: Truth, index: faiss.Index, kind: str, nlist: int | None, nprobe: int | None) -> list[Point]:
    """Without exact scoring, then (of FastScan kinds) with more and more results scored exactly."""
    plain = without_refiner(index)
    points = [Point(kind, nlist, nprobe, None, truth.recall(plain), truth.time(plain))]
    for factor in K_FACTORS if plain is not index else ():
        set_search_effort(index, k_factor=factor)
        points.append(Point(kind, nlist, nprobe, factor, truth.recall(index), truth.time(index)))
        if points[-1].recall >= ENOUGH or points[-1].recall - points[-2].recall < 1e-3:
            break
    return points


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both recall and time, from the fastest to the most exact."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms_per_query, -p.recall)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept


def winner(points: Sequence[Point], recall: float) -> Point | None:
    """The fastest point of at least this recall, or None."""
    return min((p for p in points if p.recall >= recall), key=lambda p: p.ms_per_query, default=None)
