"""Codes of any number, and indexes of them, without images or learning: what is measured depends on neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.speed.madeup import unit
from mecoq_faiss.index import build_index
from mecoq_faiss.index.inverted_lists import default_nlist, default_nprobe, zero_ivfpq

WIDTH = 8  # floats of an embedding that a byte stands for
BLOCK = 1 << 22


def shape(kind: str, num_bytes: int) -> tuple[int, int]:
    """(M, K) of codes of so many bytes: 4-bit ones for FastScan, else 8-bit ones."""
    return (2 * num_bytes, 16) if kind.endswith("fs") else (num_bytes, 256)


def codebooks(kind: str, num_bytes: int) -> np.ndarray:
    """Random unit codewords (M, K, d) float32."""
    M, K = shape(kind, num_bytes)
    books = np.random.default_rng(0).standard_normal((M, K, WIDTH * num_bytes // M), np.float32)
    return books / np.linalg.norm(books, axis=2, keepdims=True)


def blocks(kind: str, num_bytes: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """Random codes (rows, M) uint8, n in all."""
    M, K = shape(kind, num_bytes)
    rng = np.random.default_rng(seed)
    for start in range(0, n, BLOCK):
        yield rng.integers(0, K, (min(BLOCK, n - start), M), dtype=np.uint8)


def codes(kind: str, num_bytes: int, n: int, seed: int = 0) -> np.ndarray:
    """Random codes (n, M) uint8."""
    found = np.empty((n, shape(kind, num_bytes)[0]), np.uint8)
    start = 0
    for block in blocks(kind, num_bytes, n, seed):
        found[start : start + len(block)] = block
        start += len(block)
    return found


def mapped_codes(path: Path, kind: str, num_bytes: int, n: int, seed: int) -> np.ndarray:
    """The same, in a file that is mapped, as an encoded file's are."""
    found = np.lib.format.open_memmap(path, "w+", np.uint8, (n, shape(kind, num_bytes)[0]))
    start = 0
    for block in blocks(kind, num_bytes, n, seed):
        found[start : start + len(block)] = block
        start += len(block)
    found.flush()
    del found
    return np.load(path, mmap_mode="r")


def index_of(kind: str, num_bytes: int, n: int) -> faiss.Index:
    """An index to search; `ivfpq` with random centroids and lists of equal length.

    Lists filled by assignment cost hours at 10^8 codes. A search of these does the same work: it finds the nearest of
    as many centroids and scans as many lists as long. What it finds means nothing.
    """
    books, found = codebooks(kind, num_bytes), codes(kind, num_bytes, n)
    if kind != "ivfpq":
        return build_index(books, found, kind)
    nlist = default_nlist(n)
    index: Any = zero_ivfpq(books, found, nlist)
    index.by_residual = False
    centroids = np.random.default_rng(1).standard_normal((nlist, index.d), np.float32)
    index.quantizer.reset()
    index.quantizer.add(unit(centroids, 1))
    index.nprobe = default_nprobe(nlist)
    return index


def queries(num_bytes: int, nq: int) -> np.ndarray:
    """Queries (nq, D) float32 whose segments have norm 1."""
    return unit(np.random.default_rng(2).standard_normal((nq, WIDTH * num_bytes), np.float32), num_bytes)
