"""Figures of a contender by hand: quality with and without labels, size, time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from mecoq_faiss.comparison import figures
from mecoq_faiss.comparison.contenders import Contender
from mecoq_faiss.comparison.figures import Task, file_bytes, quality, search_milliseconds


def test_quality_without_labels_by_hand() -> None:
    x = np.eye(16, dtype=np.float32)
    index = faiss.IndexFlatL2(16)
    index.add(x)
    contender = Contender("Flat", "Flat", 64, index, lambda q: q)
    views = np.array([[0.9, 0.1, *[0] * 14], [0, 0.1, 0.9, *[0] * 13]], np.float32)
    found = quality(contender, Task(x[:1], None, None, None, views, np.array([0, 1]), 5))
    np.testing.assert_array_equal(found["per_query"]["same_image"], [1, 1])
    assert found["same_image_at"]["1"] == 0.5 and found["same_image_at"]["2"] == 1.0 and found["same_image"] == 1.0
    assert torch.is_inference_mode_enabled() is False


def on_a_line(places: list[float]) -> Any:
    """An index of points on a line."""
    index = faiss.IndexFlatL2(1)
    index.add(np.array(places, np.float32)[:, None])
    return index


def test_quality_with_labels_by_hand() -> None:
    contender = Contender("Flat", "Flat", 4, on_a_line([1, 2, 3, 4]), lambda q: q)
    xq = np.array([[0], [5]], np.float32)  # they see the items 0 1 2 3, and 3 2 1 0
    labels_q, labels_db = np.array([0, 2]), np.array([0, 1, 0, 2])
    found = quality(contender, Task(xq, labels_q, labels_db, None, None, None, 4))
    per_query = found.pop("per_query")
    assert per_query.keys() == {"map", "precision_at_1"}
    np.testing.assert_allclose(per_query["map"], [(1 + 2 / 3) / 2, 1])
    np.testing.assert_allclose(per_query["precision_at_1"], [1, 1])
    assert found["map"] == pytest.approx((5 / 6 + 1) / 2) and found["precision_at_1"] == 1
    np.testing.assert_allclose(found["precision"], [1, 1 / 2, (2 / 3 + 1 / 3) / 2, (2 / 4 + 1 / 4) / 2])
    np.testing.assert_allclose(found["recall"], [(1 / 2 + 1) / 2, (1 / 2 + 1) / 2, 1, 1])
    assert "neighbours" not in found and "same_image" not in found


def test_recall_of_neighbors_by_hand() -> None:
    """The first query finds all of its ten, the other, whose neighbours are said to be the far ones, none."""
    contender = Contender("Flat", "Flat", 4, on_a_line(list(range(30))), lambda q: q)
    neighbors = np.stack([np.arange(10), np.arange(20, 30)])
    found = quality(contender, Task(np.array([[-1], [-1]], np.float32), None, None, neighbors, None, None, 10))
    np.testing.assert_array_equal(found["per_query"]["neighbours"], [1, 0])
    assert found["neighbours"] == 0.5 and found["neighbours_at_100"] == 1, "of thirty items, the first 100 are all"
    assert found.keys() == {"neighbours", "neighbours_at_100", "per_query"}


def test_the_measures_of_a_task_and_the_deciding_one() -> None:
    x, y = np.zeros((4, 2)), np.zeros(4, np.int64)
    assert Task(x, y, y, None, None, None, 50).measures == {
        "map": "MAP@50", "precision_at_1": "precision@1", "precision_at_10": "precision@10",
    }  # fmt: skip
    neighbors = {"neighbours": "recall@10 of the nearest 10 by uncompressed features"}
    assert Task(x, None, None, x, None, None, 50).measures == neighbors
    with_neighbors = Task(x, y, y, x, None, None, 50).measures
    assert list(with_neighbors) == ["map", "precision_at_1", "precision_at_10", "neighbours"], "labels decide"
    with_views = Task(x, None, None, x, x, y, 50).measures
    assert list(with_views) == ["same_image", "neighbours"] and with_views["neighbours"] == neighbors["neighbours"]


def test_file_bytes_are_those_of_the_written_index() -> None:
    binary = faiss.IndexBinaryFlat(16)
    binary.add(np.zeros((7, 2), np.uint8))
    flat = on_a_line([1, 2, 3])
    for index, size in (
        (flat, len(faiss.serialize_index(flat))),
        (binary, len(faiss.serialize_index_binary(binary))),
    ):
        assert file_bytes(Contender("x", "x", 2, index, lambda q: q)) == size


def test_milliseconds_are_those_of_the_best_run_by_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one thread; of 300 queries 256 are searched, in 0.512 and in 0.256 seconds."""
    ticks = iter([0.0, 0.0, 0.512, 0.4, 0.5, 0.756, 1.0])  # until; start, end; asked; start, end; asked
    monkeypatch.setattr(figures, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seen = []

    def queries(x: np.ndarray) -> np.ndarray:
        seen.append((len(x), torch.get_num_threads(), faiss.omp_get_max_threads()))
        return x

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(3)
    faiss.omp_set_num_threads(3)  # perhaps the same number, where both have one OpenMP
    try:
        taken = search_milliseconds(Contender("x", "x", 4, on_a_line([1, 2]), queries), np.zeros((300, 1), np.float32))
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
    assert taken == pytest.approx(1.0) and seen == [(256, 1, 1)] * 2
