"""Figures of one contender: rank quality, search time on one thread, size of its index file."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from mecoq_faiss.comparison.contenders import Contender
from mecoq_faiss.evaluation import FIRST_RANKS, evaluate_search, neighbor_recall
from mecoq_faiss.index.tuner import one_thread

NEIGHBORS = 10
RECALL_AT = (1, 2, 3, 5, 10, 20, 50, 100)
TABLE_RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
TIMED_QUERIES, TIMED_K, TIMED_SECONDS = 256, 10, 0.5


@dataclass(frozen=True)
class Task:
    """What is asked of every contender.

    Attributes:
        xq: (nq, F) backbone features of the queries.
        labels_q, labels_db: as in `evaluation.is_relevant`, or None.
        neighbours: (nq, NEIGHBOURS) rows of the database nearest to each query by uncompressed features, or None.
        views, view_rows: (m, F) features of a random view of each of the database's rows (m,), or None.
        k: the cut-off of MAP.
    """

    xq: NDArray[Any]
    labels_q: NDArray[Any] | None
    labels_db: NDArray[Any] | None
    neighbors: NDArray[Any] | None
    views: NDArray[Any] | None
    view_rows: NDArray[Any] | None
    k: int

    @property
    def measures(self) -> dict[str, str]:
        """The figures that a verdict looks at, by their key in `quality`, with their names; the deciding one first."""
        names = {}
        if self.labels_q is not None:
            names["map"] = f"MAP@{self.k}"
            names |= {f"precision_at_{n}": f"precision@{n}" for n in FIRST_RANKS if n <= self.k}
        if self.views is not None:
            names["same_image"] = "recall@10 of the image whose altered copy is the query"
        if self.neighbors is not None:
            names["neighbours"] = f"recall@{NEIGHBORS} of the nearest {NEIGHBORS} by uncompressed features"
        return names


def quality(contender: Contender, task: Task) -> dict[str, Any]:
    """All figures of a contender, those of `task.measures` under their keys.

    With labels these are `map`, `map_all`, `precision_at_1` and so on, `precision` and `recall` (k,); with neighbours
    `neighbours` and `neighbours_at_100`, their recall among the first NEIGHBORS and the first 100; with views
    `same_image` and `same_image_at` (recall at each of RECALL_AT). `per_query` holds for each of `task.measures` the
    terms (queries,) whose mean it is.
    """
    index, xq = contender.index, contender.queries(task.xq)
    figures: dict[str, Any] = {}
    per_query: dict[str, NDArray[np.float64]] = {}
    if task.labels_q is not None:
        assert task.labels_db is not None
        figures = evaluate_search(index, xq, task.labels_q, task.labels_db, task.k)
        per_query["map"] = figures.pop("ap")
        per_query |= {key: figures[key] for key in task.measures if key.startswith("precision")}
    if task.neighbors is not None:
        per_query["neighbours"] = neighbor_recall(index, xq, task.neighbors, NEIGHBORS)
        figures["neighbours_at_100"] = float(neighbor_recall(index, xq, task.neighbors, 100).mean())
    if task.views is not None:
        assert task.view_rows is not None
        views, own = contender.queries(task.views), task.view_rows[:, None]
        at = {k: neighbor_recall(index, views, own, k) for k in RECALL_AT if k <= index.ntotal}
        per_query["same_image"] = at[10]
        figures["same_image_at"] = {str(k): float(found.mean()) for k, found in at.items()}
    means = {key: float(values.mean()) for key, values in per_query.items()}
    return figures | means | {"per_query": per_query}


def search_milliseconds(contender: Contender, xq: NDArray[Any]) -> float:
    """Time a query from its backbone features to TIMED_K results, on one thread, in batches; the best of several runs.

    It holds all in which contenders differ: projection, rotation or hashing of the query, then the search.
    """
    features, k = np.ascontiguousarray(xq[:TIMED_QUERIES]), min(TIMED_K, contender.index.ntotal)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread():
            best, until = float("inf"), time.perf_counter() + TIMED_SECONDS
            while best == float("inf") or time.perf_counter() < until:
                started = time.perf_counter()
                contender.index.search(contender.queries(features), k)
                best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return 1000 * best / len(features)


def file_bytes(contender: Contender) -> int:
    """Size of the index as `faiss.write_index` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        binary = isinstance(contender.index, faiss.IndexBinary)
        (faiss.write_index_binary if binary else faiss.write_index)(contender.index, str(path))
        return path.stat().st_size
