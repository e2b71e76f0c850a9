"""The plain definition in a loop, and small collections whose codes often tie."""

from __future__ import annotations

import faiss
import numpy as np


def ap_loop(relevance, k, num_relevant=None):
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevance[:k], start=1):
        if relevant:
            hits += 1
            total += hits / rank
    divisor = hits if num_relevant is None else num_relevant
    return total / divisor if divisor else 0.0


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pq(metric, d=16, M=2):
    index = faiss.IndexPQ(d, M, 4, metric)
    index.pq.cp.min_points_per_centroid = 1
    return index


def ivf(d=16):
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(d), d, 6, 2, 4)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.nprobe = 3
    return index


def fast_scan():
    index = faiss.IndexPQFastScan(16, 2, 4)
    index.pq.cp.min_points_per_centroid = 1
    return index


INDEXES = {
    "pq, L2": lambda: pq(faiss.METRIC_L2),
    "pq, IP": lambda: pq(faiss.METRIC_INNER_PRODUCT),
    "one byte": lambda: pq(faiss.METRIC_L2, M=1),
    "fast scan": fast_scan,
    "ivf": ivf,
    "flat": lambda: faiss.IndexFlatL2(16),
    "binary": lambda: faiss.IndexBinaryFlat(16),
}


def collection(kind, n=700, nq=20):
    """Database sorted by class, queries and a trained empty index; few distinct codes, so ties abound."""
    rng = np.random.default_rng(0)
    labels, labels_q = np.sort(rng.integers(0, 5, n)), rng.integers(0, 5, nq)
    centers = rng.standard_normal((5, 16))
    xb = (centers[labels] + rng.standard_normal((n, 16))).astype(np.float32)
    xq = (centers[labels_q] + rng.standard_normal((nq, 16))).astype(np.float32)
    index = INDEXES[kind]()
    if kind == "binary":
        return np.packbits(xb > 0, axis=1), np.packbits(xq > 0, axis=1), labels, labels_q, index
    index.train(xb)
    return xb, xq, labels, labels_q, index


def refined_codes():
    """Codebooks (8, 16, 2), codes (3000, 8), queries (50, 16).

    One codebook is wide, so that FastScan's 255 steps are coarse for the others, and some of the first come late.
    """
    rng = np.random.default_rng(0)
    books = unit(np.array([1.0, 0.0]) + 0.1 * rng.standard_normal((8, 16, 2)))
    books[0] = unit(rng.standard_normal((16, 2)))
    codes = rng.integers(0, 16, (3000, 8)).astype(np.uint8)
    return books.astype(np.float32), codes, unit(rng.standard_normal((50, 8, 2))).astype(np.float32).reshape(50, 16)
