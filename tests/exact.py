"""The exact search that every index is compared with."""

from __future__ import annotations

import numpy as np

from mecoq_faiss.index.codes import check_codes


def search_exact(codebooks: np.ndarray, codes: np.ndarray, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Brute-force asymmetric search (Eq. 16, 17): the truth that every index is compared with.

    Args:
        codebooks: (M, K, d) float32.
        codes: (n, M) uint8.
        xq: queries (nq, M * d) float32, every segment of norm 1.
        k: results a query, 1 to n.

    Returns:
        D (nq, k) float32, scores in falling order, and I (nq, k) int64, rows of `codes`. Which of the rows that
        tie at the k-th score is returned is not defined.

    Raises:
        ValueError: shapes that do not fit, or k out of range.
    """
    M, K, d = codebooks.shape
    n = check_codes(codes, M, K)
    if xq.ndim != 2 or xq.shape[1] != M * d:
        raise ValueError(f"queries must have shape (nq, {M * d}), got {xq.shape}")
    if not 1 <= k <= n:
        raise ValueError(f"k={k} is out of range: choose 1 to n={n}")
    D, I = np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
    for q, query in enumerate(xq):
        table = np.einsum("md,mkd->mk", query.reshape(M, d), codebooks)
        scores = np.zeros(n, np.float32)
        for m in range(M):
            scores += table[m].take(codes[:, m])
        top = np.argpartition(-scores, k - 1)[:k]
        I[q] = top[np.argsort(-scores[top], kind="stable")]
        D[q] = scores[I[q]]
    return D, I
