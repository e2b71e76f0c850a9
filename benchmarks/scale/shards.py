"""One collection built as shards by several processes at once: codes a second, and each one's memory over its share.

A process maps the codes of its share, as they lie in an encoded file, builds the index and writes it. Memory is what it
takes over what it held before; pages of mapped files do not count, for the system drops them when it wants memory. The
whole process's peak, those pages and Python's libraries among it, is given beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.scale import building, madeup
from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.measure import Row, peak_of, resident

KINDS = ("pq", "ivfpq")
NUM_BYTES = 4
GOAL = 1.3  # times its share, of a process's memory


def cells(options: Options) -> Iterator[Cell]:
    for kind in KINDS:
        for n in options.sizes:
            for workers in options.workers:
                share = -(-n // workers)
                jobs = [
                    {"kind": kind, "n": min(share, n - i * share), "number": i, "folder": options.folder}
                    for i in range(workers)
                ]
                nlist = building.FEW_LISTS if kind == "ivfpq" else 0
                settings = {"kind": kind, "num_bytes": NUM_BYTES, "codes": n, "nlist": nlist, "workers": workers}
                seconds = building.foretold(NUM_BYTES, share, nlist) * max(1, workers / (os.cpu_count() or 1))
                memory = workers * building.memory_of(kind, NUM_BYTES, share)
                yield Cell("shards", settings, "shards:build_share", jobs, memory, 2.5 * n * (NUM_BYTES + 8), seconds)


def build_share(kind: str, n: int, number: int, folder: str | None) -> Iterator[Row]:
    """The shard of one process, from its codes' file to its index file; an inverted file has few lists."""
    from mecoq_faiss.index import build_index, save_index

    with tempfile.TemporaryDirectory(dir=folder) as own:
        books = madeup.codebooks(kind, NUM_BYTES)
        codes = madeup.mapped_codes(Path(own) / "codes.npy", kind, NUM_BYTES, n, number)
        nlist = building.FEW_LISTS if kind == "ivfpq" else None
        before = resident("RssAnon")
        out = Path(own) / "index.faiss"
        yield {}
        _, peak = peak_of(lambda: save_index(build_index(books, codes, kind, nlist=nlist), out))
        size = out.stat().st_size
        share = n * NUM_BYTES
        yield {
            "n": n,
            "memory / codes": peak / share,
            "memory / index file": peak / size,
            "goal missed": peak / size >= GOAL,
            "whole process / codes": resident("VmHWM") / share,
            "held_before": before,
            "index_bytes": size,
        }
