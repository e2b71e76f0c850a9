"""Codes small enough to try every kind on, and the brute force that each is compared with."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import KINDS

CASES: list[tuple[str, int, int, dict[str, Any]]] = [  # kind, M, K, options
    ("pq", 2, 256, {}),
    ("pq", 3, 8, {}),
    ("pq", 4, 16, {}),
    ("pq", 8, 256, {}),
    ("pqfs", 3, 16, {}),
    ("pqfs", 8, 16, {}),
    ("pqfs", 3, 16, {"refine": True}),
    ("pqfs", 8, 16, {"refine": True}),
    ("ivfpq", 4, 256, {"nlist": 7}),
    ("ivfpq", 5, 16, {"nlist": 1}),
    ("ivfpqfs", 8, 16, {"nlist": 7}),
    ("ivfpqfs", 8, 16, {"nlist": 7, "refine": True}),
    ("ivfpq-all", 4, 256, {}),
    ("ivfpq-all", 2, 256, {"nlist": 7}),
]
names = [f"{kind}-M{M}-K{K}-{'-'.join(options)}" for kind, M, K, options in CASES]
every_case = pytest.mark.parametrize(("kind", "M", "K", "options"), CASES, ids=names)
every_kind = pytest.mark.parametrize(
    ("kind", "K"), [("pq", 256), ("pqfs", 16), ("ivfpq", 256), ("ivfpqfs", 16), ("ivfpq-all", 256)], ids=KINDS
)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def arrays(n: int, M: int, K: int, d: int = 6, nq: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random codebooks (M, K, d), codes (n, M) and queries (nq, M * d) of segment norm 1."""
    rng = np.random.default_rng(n + M + K)
    codebooks = unit(rng.standard_normal((M, K, d)))
    codes = rng.integers(0, K, (n, M), dtype=np.uint8)
    return codebooks, codes, unit(rng.standard_normal((nq, M, d))).reshape(nq, M * d)


def clustered(n: int, M: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes that neighbours share, as images' do: Eq. 15 of points around 100 centres."""
    rng = np.random.default_rng(n)
    codebooks, _, _ = arrays(1, M, K, d=8)
    centers = rng.standard_normal((100, M, 8))
    x, xq = (unit(centers[rng.integers(0, 100, size)] + 0.5 * rng.standard_normal((size, M, 8))) for size in (n, 100))
    return codebooks, np.einsum("bmd,mkd->bmk", x, codebooks).argmax(axis=2).astype(np.uint8), xq.reshape(100, -1)


def brute_force(codebooks: np.ndarray, codes: np.ndarray, xq: np.ndarray) -> np.ndarray:
    """Every score, (nq, n), one codeword at a time."""
    scores = np.zeros((len(xq), len(codes)))
    for m, segment in enumerate(np.split(xq.astype(np.float64), len(codebooks), axis=1)):
        scores += segment @ codebooks[m, codes[:, m]].T
    return scores


def probe_all(index: faiss.Index) -> None:
    try:
        ivf = faiss.extract_index_ivf(index)
    except RuntimeError:
        return
    ivf.nprobe = ivf.nlist


def assert_search(index: faiss.Index, scores: np.ndarray, xq: np.ndarray, k: int, tol: float, ids: np.ndarray) -> None:
    """The k best scores, each under an id that truly has that score, no id twice."""
    D, I = index.search(xq, k)
    np.testing.assert_allclose(D, -np.sort(-scores, axis=1)[:, :k], atol=tol)
    rows = np.searchsorted(ids, I)
    np.testing.assert_array_equal(ids[rows], I)
    np.testing.assert_allclose(D, np.take_along_axis(scores, rows, axis=1), atol=tol)
    assert all(len(set(row)) == k for row in I.tolist())


def table_rounding(codebooks: np.ndarray, xq: np.ndarray) -> float:
    """FastScan's lookup tables have 8 bits: at most half a step an entry, M entries a score."""
    M, _, d = codebooks.shape
    tables = np.einsum("qmd,mkd->qmk", xq.reshape(-1, M, d), codebooks)
    return 0.5 * M * float(np.ptp(tables, axis=2).max()) / 255 + 1e-5
