"""Exact nearest neighbors of items among themselves, by FAISS."""

from __future__ import annotations

import faiss
import numpy as np

from mecoq_faiss.runtime.progress import progress

BLOCK = 4096  # queries at a time


def nearest(x: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Of each row of x (n, F) float32 the k nearest others, (n, k) int64, by `cosine`, `ip` or `l2`.

    k is at most n - 1. Of equal rows one may stand in the place of the row itself, which is left out by its number.
    """
    if metric == "cosine":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    blocks = range(0, len(x), BLOCK)
    found = [
        faiss.knn(x[start : start + BLOCK], x, k + 1, kind)[1]
        for start in progress(blocks, total=len(blocks), label="neighbors", unit="blocks")
    ]
    I = np.concatenate(found)
    itself = np.arange(len(x))[:, None] == I
    itself[~itself.any(axis=1), -1] = True  # not among its own k + 1 nearest: the last one goes
    return I[~itself].reshape(len(x), k)
