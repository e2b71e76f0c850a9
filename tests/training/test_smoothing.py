"""Smoothed features: what they are by definition, that kinds lie closer, that the cache keeps them, and small cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.runtime.ranks import joined
from mecoq_faiss.training import smoothing as module
from mecoq_faiss.training.smoothing import Smoothing, smoothed_features
from mecoq_faiss.training.standardized import Standardized
from tests.training.group import on_ranks

N, F, KINDS = 90, 8, 6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that do not divide: 16 rows a block, 2 blocks a shard."""
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "SHARD_BLOCKS", 2)


def of_kinds(noise: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) with a mean and scales of their own, and the kinds they are of."""
    rng = np.random.default_rng(0)
    kinds = np.arange(N) % KINDS
    x = rng.normal(size=(KINDS, F))[kinds] + noise * rng.normal(size=(N, F)) / 2
    return (5 + x * np.geomspace(1, 20, F)).astype(np.float32), kinds


def all_rows(x: np.ndarray, neighbors: int) -> np.ndarray:
    smoothing = Smoothing(x, neighbors)
    return np.concatenate([smoothing.rows(start, start + 16) for start in range(0, len(x), 16)])


def by_definition(x: np.ndarray, neighbors: int, sampled: np.ndarray) -> np.ndarray:
    """Row by row, from all cosines."""
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    found = []
    for i in range(len(x)):
        total = x[i].copy()
        others = sampled[sampled != i]
        for j in others[np.argsort(-cosines[i, others])][:neighbors]:
            of_j = np.sort(cosines[j, sampled[sampled != j]])[::-1]
            if cosines[i, j] >= of_j[neighbors - 1] - 1e-5:
                total += max(cosines[i, j], 0) ** 3 * x[j]
        found.append(total / np.linalg.norm(total))
    return np.array(found)


@pytest.mark.parametrize("neighbors", [1, 5])
def test_a_row_is_averaged_with_neighbors_that_have_it_among_theirs(neighbors: int) -> None:
    x, _ = of_kinds()
    np.testing.assert_allclose(all_rows(x, neighbors), by_definition(x, neighbors, np.arange(N)), atol=1e-5)


def test_neighbors_are_sought_in_a_sample_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 40)
    x, _ = of_kinds()
    smoothing = Smoothing(x, 5)
    assert len(smoothing.sampled) == 40
    inside = np.isin(np.arange(N), smoothing.sampled)
    found = all_rows(x, 5)
    np.testing.assert_allclose(found[inside], by_definition(x, 5, smoothing.sampled)[inside], atol=1e-5)
    # of one that is not in the sample one neighbor more is looked at
    unit = smoothing.features.take(np.arange(N)).numpy()
    cosines = unit @ smoothing.sample.T
    for i in np.flatnonzero(~inside):
        near = [j for j in np.argsort(-cosines[i])[:6] if cosines[i, j] >= smoothing.radius[j]]
        total = unit[i] + (np.maximum(cosines[i, near], 0) ** 3) @ smoothing.sample[near]
        np.testing.assert_allclose(found[i], total / np.linalg.norm(total), atol=1e-5)


def test_kinds_lie_closer_than_before() -> None:
    x, kinds = of_kinds()

    def of_nearest(x: np.ndarray) -> float:
        """The share of the nearest ten that are of one kind."""
        cosines = x @ x.T
        np.fill_diagonal(cosines, -2)
        return float((kinds[np.argsort(-cosines, axis=1)[:, :10]] == kinds[:, None]).mean())

    raw = Standardized(x, "cpu").take(np.arange(N)).numpy()
    assert of_nearest(all_rows(x, 10)) > of_nearest(raw) + 0.05


def test_kept_in_the_cache_by_what_they_were_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = of_kinds()
    rows = np.arange(N) * 2
    made, of = smoothed_features(x, rows, 5, {"data": "a"}, folder=tmp_path)
    assert made.dtype == np.float16 and np.array_equal(of, rows)
    np.testing.assert_allclose(made, all_rows(x, 5), atol=1e-3)
    smoothed_features(x, rows, 6, {"data": "a"}, folder=tmp_path)
    smoothed_features(x, rows, 5, {"data": "b"}, folder=tmp_path)
    assert len(list(tmp_path.glob("smoothed-*.h5"))) == 3
    monkeypatch.setattr(module, "Smoothing", None)
    again, _ = smoothed_features(x, rows, 5, {"data": "a"}, folder=tmp_path)
    assert np.array_equal(made, again)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_more_neighbors_than_rows(count: int) -> None:
    x = of_kinds()[0][:count]
    found = all_rows(x, 20)
    assert found.shape == (count, F) and np.isfinite(found).all()


def test_equal_rows_stay_equal_and_finite() -> None:
    assert np.array_equal(all_rows(np.ones((5, 3), np.float32), 2), np.zeros((5, 3)))
    x, _ = of_kinds()
    x[10:20] = x[10]
    found = all_rows(x, 3)
    np.testing.assert_allclose(found[10:20], np.tile(found[10], (10, 1)), atol=1e-5)


def test_of_several_views_the_first() -> None:
    x, _ = of_kinds()
    views = np.stack([x, x[::-1]], axis=1)
    assert np.array_equal(all_rows(views, 5), all_rows(x, 5))


def make(folder: Path) -> None:
    module.BLOCK, module.SHARD_BLOCKS = 16, 2
    x, _ = of_kinds()
    with joined("cpu") as (ranks, _):
        smoothed_features(x, np.arange(N), 5, {"data": "a"}, folder=folder, ranks=ranks)


def test_two_ranks_make_the_bytes_of_one(tmp_path: Path) -> None:
    make(tmp_path / "one")
    on_ranks(2, make, tmp_path / "two")
    one, two = (list((tmp_path / name).glob("*.h5")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
