"""Nearest neighbors against numpy's, by each metric."""

from __future__ import annotations

import numpy as np
import pytest

from mecoq_faiss.index import nearest as module
from mecoq_faiss.index.nearest import nearest


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_nearest_others(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = {"cosine": unit @ unit.T, "ip": x @ x.T, "l2": -((x[:, None] - x) ** 2).sum(axis=2)}[metric]
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_array_equal(nearest(x, 6, metric), np.argsort(-scores, axis=1)[:, :6])


def test_the_nearest_to_queries() -> None:
    rng = np.random.default_rng(0)
    x, xq = (rng.normal(size=(n, 5)).astype(np.float32) for n in (40, 7))
    np.testing.assert_array_equal(nearest(x, 3, "ip", xq), np.argsort(-(xq @ x.T), axis=1)[:, :3])


def test_of_equal_rows_none_is_its_own_neighbor() -> None:
    I = nearest(np.ones((5, 2), np.float32), 2, "l2")
    assert I.shape == (5, 2) and not (np.arange(5)[:, None] == I).any()
