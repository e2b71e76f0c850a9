"""Milliseconds a query on one thread, and of merging the results of shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.scale import building, madeup
from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.measure import Row

KINDS = ("pq", "pqfs", "ivfpq")
K, REPEATS = 10, 3
CODES = 400_000_000  # about so many are scanned in a call, which has 2 to 256 queries
SHARDS, KS, MERGED_QUERIES = (2, 8, 64, 512), (10, 100), 32


def cells(options: Options) -> Iterator[Cell]:
    for kind in KINDS:
        for num_bytes in options.bytes:
            for n in options.sizes:
                job = {"kind": kind, "num_bytes": num_bytes, "n": n}
                yield Cell("search", job, "searching:search", [job], building.memory_of(kind, num_bytes, n))
    for shards in SHARDS:
        for k in KS:
            job = {"shards": shards, "k": k}
            yield Cell("merge", job, "searching:merge", [job])


def search(kind: str, num_bytes: int, n: int) -> Iterator[Row]:
    """CPU time a query: of many in one call, and of one in a call."""
    index: Any = madeup.index_of(kind, num_bytes, n)
    xq = madeup.queries(num_bytes, max(2, min(256, CODES // n)))
    index.search(xq[:1], K)
    few = xq[: max(2, len(xq) // 8)]
    yield {}
    together, alone = _ms(lambda: index.search(xq, K)), _ms(lambda: [index.search(x[None], K) for x in few])
    lists = {} if kind != "ivfpq" else {"nlist": index.nlist, "nprobe": index.nprobe}
    yield {"ms": together / len(xq), "alone_ms": alone / len(few), "queries": len(xq), **lists}


def merge(shards: int, k: int) -> Iterator[Row]:
    """Microseconds a query of joining sorted results (shards, queries, k)."""
    import faiss

    rng = np.random.default_rng(0)
    D = -np.sort(-rng.random((shards, MERGED_QUERIES, k), np.float32), axis=2)
    I = rng.integers(0, 1 << 40, D.shape)
    yield {}
    ms = _ms(lambda: faiss.merge_knn_results(D, I, keep_max=True))
    yield {"us": 1000 * ms / MERGED_QUERIES}


def _ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of this thread, the best of a few: other programs on the machine do not count."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return 1000 * best
