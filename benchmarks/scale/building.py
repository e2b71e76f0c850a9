"""Codes a second into an index, the parts of an inverted file, and memory over the bytes of the codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.scale import madeup
from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.measure import Row, peak_of
from mecoq_faiss.index import build as build_module
from mecoq_faiss.index import build_index, inverted_lists

KINDS = ("pq", "pqfs", "ivfpq")
LISTS_BYTES = 4  # of the inverted file's codes
FEW_LISTS = 256  # a build whose k-means and assignment cost little, to measure the rest at large n
MACS = 1e10  # multiply-adds a second of a core, to foretell how long an inverted file takes
NLISTS, ASSIGNED_MACS = (1 << 10, 1 << 13, 1 << 16), 2e10
PARTS = {
    "kmeans_s": (build_module, "coarse_centroids"),
    "assign_s": (inverted_lists, "_assign"),
    "fill_s": (inverted_lists, "_fill_lists"),
}


def cells(options: Options) -> Iterator[Cell]:
    for kind, nlist in (("pq", 0), ("pqfs", 0), ("ivfpq", FEW_LISTS), ("ivfpq", None)):
        for num_bytes in options.bytes if kind != "ivfpq" else [LISTS_BYTES]:
            for n in options.sizes:
                number = nlist or lists_of(kind, n)
                job = {"kind": kind, "num_bytes": num_bytes, "n": n, "nlist": number}
                seconds, memory = foretold(num_bytes, n, number), memory_of(kind, num_bytes, n)
                yield Cell("build", job, "building:build", [job], memory, seconds=seconds)
    for num_bytes in options.bytes:
        for nlist in NLISTS:
            job = {"num_bytes": num_bytes, "nlist": nlist, "macs": ASSIGNED_MACS / options.divisor}
            yield Cell("assign", job, "building:assign", [job])


def lists_of(kind: str, n: int) -> int:
    """Nlist by default; 0 where there are no lists."""
    return inverted_lists.default_nlist(n) if kind == "ivfpq" else 0


def memory_of(kind: str, num_bytes: int, n: int) -> float:
    """Bytes that codes, index and what is between them take, about."""
    each = madeup.shape(kind, num_bytes)[0] + num_bytes + (32 if kind == "ivfpq" else 0)
    return 5e8 + 1.1 * n * each


def foretold(num_bytes: int, n: int, nlist: int) -> float:
    """Seconds of coarse k-means and assignment on one core; 0 without lists."""
    return (kmeans_rows(num_bytes, n, nlist) + n) * nlist * madeup.WIDTH * num_bytes / MACS


def kmeans_rows(num_bytes: int, n: int, nlist: int) -> int:
    """Rows that coarse k-means compares with all centroids: those of its sample in each iteration."""
    most = max(inverted_lists.SAMPLE_BYTES, n * (num_bytes + 8)) // (4 * madeup.WIDTH * num_bytes)
    return inverted_lists.ITERATIONS * min(n, 256 * nlist, most)


def build(kind: str, num_bytes: int, n: int, nlist: int) -> Iterator[Row]:
    """One build from codes in memory; memory is what it takes at most over what the process held before."""
    books, codes = madeup.codebooks(kind, num_bytes), madeup.codes(kind, num_bytes, n)
    parts: Row = {}
    yield {}
    with ExitStack() as stack:
        if nlist:
            for part, (module, name) in PARTS.items():
                stack.enter_context(mock.patch.object(module, name, _timed(part, getattr(module, name), parts)))
        seconds, peak = peak_of(lambda: build_index(books, codes, kind, nlist=nlist or None))
    if nlist:
        multiply_adds = nlist * madeup.WIDTH * num_bytes
        parts |= {
            "kmeans_macs_per_s": kmeans_rows(num_bytes, n, nlist) * multiply_adds / parts["kmeans_s"],
            "assign_macs_per_s": n * multiply_adds / parts["assign_s"],
            "fill_per_s": n / parts["fill_s"],
        }
    yield {"n": n, "build_s": seconds, "memory / codes": peak / (n * num_bytes), **parts}


def assign(num_bytes: int, nlist: int, macs: float) -> Iterator[Row]:
    """Codes to the nearest of so many centroids, about `macs` multiply-adds in all."""
    import faiss

    D = madeup.WIDTH * num_bytes
    n = max(1, int(macs / nlist / D))
    books, codes = madeup.codebooks("pq", num_bytes), madeup.codes("pq", num_bytes, n)
    quantizer = faiss.IndexFlatIP(D)
    quantizer.add(np.random.default_rng(1).standard_normal((nlist, D), np.float32))
    quantizer.search(np.zeros((1, D), np.float32), 1)  # type: ignore[call-arg]
    yield {}
    started = time.thread_time()
    inverted_lists._assign(quantizer, books, codes)
    yield {"n": n, "macs_per_s": n * nlist * D / (time.thread_time() - started)}


def _timed(part: str, work: Callable[..., Any], seconds: Row) -> Any:
    def run(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*args)
        finally:
            seconds[part] = time.perf_counter() - started

    return run
