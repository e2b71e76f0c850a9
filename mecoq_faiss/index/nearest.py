"""Exact nearest neighbors, by FAISS."""

from __future__ import annotations

import faiss
import numpy as np

from mecoq_faiss.runtime.progress import progress

BLOCK = 4096  # queries at a time


def nearest(
    x: np.ndarray, k: int, metric: str, queries: np.ndarray | None = None, part: slice = slice(None)
) -> np.ndarray:
    """Of each query (nq, F) the k nearest rows of x (n, F), (nq, k) int64, by `cosine`, `ip` or `l2`; float32.

    Without queries, of each row of x the k nearest others; of equal rows one may stand in the place of the row itself,
    which is left out by its number. k is at most n, or n - 1. Of the queries, or rows, only those of `part`.
    """
    own = queries is None
    xq = (x if queries is None else queries)[part]
    if metric == "cosine":
        x, xq = _unit(x), _unit(xq)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    blocks = range(0, len(xq), BLOCK)
    found = [
        faiss.knn(xq[start : start + BLOCK], x, k + own, kind)[1]
        for start in progress(blocks, total=len(blocks), label="neighbors", unit="blocks")
    ]
    I = np.concatenate([np.empty((0, k + own), np.int64), *found])
    if not own:
        return I
    itself = np.arange(len(x))[part, None] == I
    itself[~itself.any(axis=1), -1] = True  # not among its own k + 1 nearest: the last one goes
    return I[~itself].reshape(len(I), k)


def by_inner_product(xq: np.ndarray, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each query (nq, F) the k nearest rows of x (n, F), the best first: inner products D and numbers I, (nq, k)."""
    return faiss.knn(xq, x, k, faiss.METRIC_INNER_PRODUCT)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
