"""Residual codebooks: each leaves less, and few rows are kept as they are."""

from __future__ import annotations

import numpy as np

from mecoq_faiss.index.residual import residual_codebooks


def left(C: np.ndarray, x: np.ndarray) -> float:
    """The mean squared norm of what codebooks, one after the other, leave of x."""
    for codewords in C:
        x = x - codewords[((x[:, None] - codewords) ** 2).sum(axis=2).argmin(axis=1)]
    return float((x**2).sum(axis=1).mean())


def test_every_codebook_leaves_less_and_a_seed_repeats() -> None:
    x = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    C = residual_codebooks(x, 3, 16, seed=1)
    assert C.shape == (3, 16, 6) and C.dtype == np.float32
    assert left(C, x) < 0.8 * left(C[:2], x) < 0.8 * 0.8 * left(C[:1], x)
    np.testing.assert_array_equal(C, residual_codebooks(x, 3, 16, seed=1))


def test_fewer_rows_than_dimensions() -> None:
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    assert left(residual_codebooks(x, 2, 16, seed=0), x) < 0.7 * left(np.empty((0, 1, 64)), x)


def test_fewer_rows_than_codewords_are_all_kept() -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert left(residual_codebooks(x, 1, 16, seed=0), x) < 1e-10
