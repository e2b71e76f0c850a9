"""Batches of neighbors: by the exact metric, of a number of items, the same ones wherever an epoch is begun."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mecoq_faiss.index.nearest import nearest
from mecoq_faiss.training import neighbors as module
from mecoq_faiss.training.neighbors import NeighborPairs


@pytest.fixture
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(90, 6)) * rng.uniform(1, 3, (90, 1))).astype(np.float32)


def scores(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Larger is nearer, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return -((a[:, None] - b) ** 2).sum(axis=2)
    if metric == "cosine":
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return a @ b.T


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("given", [False, True])
def test_they_are_the_exact_ones(metric: str, given: bool, x: np.ndarray) -> None:
    queries = x[::3] + 0.5 if given else None
    pairs = NeighborPairs(x, metric, 16, 0, "cpu", queries)
    found = scores(x if queries is None else queries, pairs.features, metric)
    if queries is None:
        np.fill_diagonal(found, -np.inf)
    expected = np.argsort(-found, axis=1)[:, : module.NEAREST]
    np.testing.assert_array_equal(np.sort(pairs.near, axis=1), np.sort(expected, axis=1))


@pytest.mark.parametrize("given", [False, True])
def test_parts_make_up_the_whole(given: bool, x: np.ndarray) -> None:
    queries = x[::3] + 0.5 if given else None
    whole = nearest(x, 5, "ip", queries)
    parts = [nearest(x, 5, "ip", queries, part) for part in (slice(0, 10), slice(10, 10), slice(10, len(whole)))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("times", [1, 3])
def test_a_batch_holds_neighbors_of_its_queries_and_marks_the_same_ones(
    times: int, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEWEST_STEPS", {1: 5, 3: 12}[times])
    pairs = NeighborPairs(x, "cosine", 16, 0, "cpu")
    seen = []
    for batch in pairs.batches(1):
        rows = [int(np.flatnonzero((x == q.numpy()).all(axis=1))[0]) for q in batch.view1]
        items = [int(np.flatnonzero((x == i.numpy()).all(axis=1))[0]) for i in batch.view2]
        assert len(set(items)) == len(items) and set(rows) <= set(items)
        assert batch.same.tolist() == [[row == item for item in items] for row in rows]
        assert set(items) <= set(pairs.near[rows].ravel()) | set(rows)
        seen += rows
    assert sorted(seen) == sorted(times * list(range(90))), "each is a query as often as any other"


def test_items_that_are_near_to_no_query_come_up_too(x: np.ndarray) -> None:
    queries = np.tile(x[:1], (30, 1)) + 0.01 * np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    pairs = NeighborPairs(x, "cosine", 16, 0, "cpu", queries)
    far = {tuple(row) for row in np.delete(x, np.unique(pairs.near), axis=0).tolist()}
    batches = list(pairs.batches(1))
    assert len(batches) == 2, "given queries come once"
    assert far & {tuple(row) for batch in batches for row in batch.view2.tolist()}
    assert not any(batch.same.any() for batch in batches)


def test_an_epoch_that_is_gone_on_with_has_the_same_batches(x: np.ndarray) -> None:
    whole = list(NeighborPairs(x, "ip", 16, 3, "cpu").batches(2))
    rest = list(NeighborPairs(x, "ip", 16, 3, "cpu").batches(2, start_step=2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    other_epoch = next(iter(NeighborPairs(x, "ip", 16, 3, "cpu").batches(1)))
    assert not torch.equal(other_epoch.view1, whole[0].view1)


def test_of_many_rows_a_seeded_sample_and_of_views_the_first(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 40)
    pairs = NeighborPairs(np.stack([x, x + 1], axis=1), "l2", 16, 0, "cpu")
    known = {tuple(row) for row in x.tolist()}
    assert pairs.features.shape == (40, 6) and {tuple(row) for row in pairs.features.tolist()} <= known
    assert len(pairs.near) == 40 and pairs.near.shape[1] == 39, "all others where they are fewer than 50"
    again = NeighborPairs(x, "l2", 16, 0, "cpu")
    np.testing.assert_array_equal(again.features, pairs.features)
