"""Index files: bytes on disk and in memory a code, seconds to open, read or mapped; the disk's rates with fsync."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.scale import building, madeup
from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.measure import Row, peak_of

KINDS = ("pq", "pqfs", "ivfpq")
NUM_BYTES = 4
CHUNK = 1 << 24
DISK_BYTES = 1 << 30


def cells(options: Options) -> Iterator[Cell]:
    for kind in KINDS:
        for n in options.sizes:
            job = {"kind": kind, "num_bytes": NUM_BYTES, "n": n}
            memory = building.memory_of(kind, NUM_BYTES, n) + 12 * n
            yield Cell("open", job, "files:opening", [{**job, "folder": options.folder}], memory, 13.0 * n)
    size = DISK_BYTES // options.divisor
    yield Cell("disk", {"bytes": size}, "files:disk", [{"bytes": size, "folder": options.folder}], disk=1.1 * size)


def opening(kind: str, num_bytes: int, n: int, folder: str | None) -> Iterator[Row]:
    """One file, in the system's cache and not, as a whole and mapped; then a first search of the mapped one."""
    from mecoq_faiss.index import load_index, save_index

    with tempfile.TemporaryDirectory(dir=folder) as own:
        path, held = Path(own) / "index.faiss", []
        save_index(madeup.index_of(kind, num_bytes, n), path)
        xq = madeup.queries(num_bytes, 1)
        yield {}
        row: Row = {"file / code": path.stat().st_size / n}
        warm, memory = peak_of(lambda: held.append(load_index(path)))
        row |= {"open_s": warm, "memory / code": memory / n}
        held.clear()
        _forget(path)
        row["cold_open_s"] = peak_of(lambda: held.append(load_index(path)))[0]
        held.clear()
        _forget(path)
        mapped, memory = peak_of(lambda: held.append(load_index(path, mmap=True)))
        row |= {"mmap_open_s": mapped, "mmap memory / code": memory / n}
        row["mmap_first_search_s"] = _seconds(lambda: held[0].search(xq, 10))
        yield row


def disk(bytes: int, folder: str | None) -> Iterator[Row]:
    """Bytes a second written and fsynced, and read when the system's cache has forgotten them."""
    data = np.random.default_rng(0).integers(0, 256, CHUNK, dtype=np.uint8).tobytes()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "data"
        yield {}
        started = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for start in range(0, bytes, CHUNK):
                file.write(data[: min(CHUNK, bytes - start)])
            os.fsync(file.fileno())
        written = time.perf_counter() - started
        _forget(path)
        started = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            while file.read(CHUNK):
                pass
        yield {"write_bytes_per_s": bytes / written, "read_bytes_per_s": bytes / (time.perf_counter() - started)}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _forget(path: Path) -> None:
    """Ask the system to drop the file's pages from its cache; a disk's own cache stays."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
