"""Codes a second into an index, the parts of an inverted file, and memory over the bytes of the codes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

from benchmarks.scale import madeup
from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.measure import Row, peak_of
from mecoq_faiss.index import build_index, inverted_lists

KINDS = ("pq", "pqfs", "ivfpq")
LISTS_BYTES = 4  # of the inverted file's codes
FLOPS = 4e10  # a core's, to foretell how long an inverted file takes
PARTS = {"kmeans_s": "coarse_centroids", "assign_s": "_assign", "fill_s": "_fill_lists"}


def cells(options: Options) -> Iterator[Cell]:
    for kind in KINDS:
        for num_bytes in options.bytes if kind != "ivfpq" else [LISTS_BYTES]:
            for n in options.sizes:
                job = {"kind": kind, "num_bytes": num_bytes, "n": n}
                seconds = foretold(num_bytes, n) if kind == "ivfpq" else 0.0
                yield Cell("build", job, "building:build", [job], memory_of(kind, num_bytes, n), seconds=seconds)


def memory_of(kind: str, num_bytes: int, n: int) -> float:
    """Bytes that codes, index and what is between them take, about."""
    each = madeup.shape(kind, num_bytes)[0] + num_bytes + (32 if kind == "ivfpq" else 0)
    return 5e8 + 1.1 * n * each


def foretold(num_bytes: int, n: int) -> float:
    """Seconds of coarse k-means and assignment on one core."""
    nlist, D = inverted_lists.default_nlist(n), madeup.WIDTH * num_bytes
    return (inverted_lists.ITERATIONS * sample_rows(num_bytes, n) + n) * nlist * D * 2 / FLOPS


def sample_rows(num_bytes: int, n: int) -> int:
    """Rows that coarse k-means sees, as `inverted_lists.coarse_centroids` takes them."""
    most = max(inverted_lists.SAMPLE_BYTES, n * (num_bytes + 8)) // (4 * madeup.WIDTH * num_bytes)
    return min(n, 256 * inverted_lists.default_nlist(n), most)


def build(kind: str, num_bytes: int, n: int) -> Iterator[Row]:
    """One build from codes in memory."""
    books, codes = madeup.codebooks(kind, num_bytes), madeup.codes(kind, num_bytes, n)
    parts: Row = {}
    yield {}
    with ExitStack() as stack:
        if kind == "ivfpq":
            for part, name in PARTS.items():
                stack.enter_context(mock.patch.object(inverted_lists, name, _timed(part, name, parts)))
        seconds, peak = peak_of(lambda: build_index(books, codes, kind))
    if kind == "ivfpq":
        nlist, D = inverted_lists.default_nlist(n), madeup.WIDTH * num_bytes
        kmeans = inverted_lists.ITERATIONS * sample_rows(num_bytes, n)
        parts |= {
            "nlist": nlist,
            "kmeans_macs_per_s": kmeans * nlist * D / parts["kmeans_s"],
            "assign_macs_per_s": n * nlist * D / parts["assign_s"],
            "fill_per_s": n / parts["fill_s"],
        }
    yield {"n": n, "build_s": seconds, "memory / codes": peak / (n * num_bytes), **parts}


def _timed(part: str, name: str, seconds: Row) -> Any:
    work = getattr(inverted_lists, name)

    def run(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*args)
        finally:
            seconds[part] = time.perf_counter() - started

    return run
