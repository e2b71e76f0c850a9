"""Residual codebooks, whose sums come near given vectors, by FAISS."""

from __future__ import annotations

import faiss
import numpy as np


def residual_codebooks(x: np.ndarray, M: int, K: int, seed: int) -> np.ndarray:
    """Codebooks (M, K, D) float32 for x (n, D), each fitted to what those before it leave.

    Fewer rows than K are taken several times.
    """
    x = np.ascontiguousarray(x[np.arange(max(K, len(x))) % len(x)], dtype=np.float32)
    rq = faiss.ResidualQuantizer(x.shape[1], M, K.bit_length() - 1)
    if len(x) < x.shape[1]:  # too few for the principal axes that it would begin with
        rq.train_type = faiss.ResidualQuantizer.Train_default
    rq.cp.seed = seed % 2**31
    rq.cp.min_points_per_centroid = 1  # it warns below 39, of which we know
    rq.train(x)
    return faiss.vector_to_array(rq.codebooks).reshape(M, K, x.shape[1])
