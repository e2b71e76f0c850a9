"""A batch of searches of one export: encoded together, searched together where they ask for the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.generation import Generation, Hit
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.service.metrics import Metrics


class OutOfDate(Exception):
    """Another export took the bundle's place meanwhile, whose images have another size."""


@dataclass
class Found:
    """What a search says: for each query its hits, and what the answer adds to them.

    Attributes:
        hits: best first.
        missing: shards that did not answer.
        generation, top: of the export that was searched its name and its highest score.
        labels, metadata: by row and by id; of other items too.
        codes: (M,) by row; segments: (M,) by query and row; empty unless asked for.
    """

    hits: list[list[Hit]]
    generation: str
    top: float | None
    missing: int
    labels: dict[int, str | None]
    metadata: dict[int, dict[str, Any]]
    codes: dict[int, list[int]] = field(default_factory=dict)
    segments: dict[tuple[int, int], list[float]] = field(default_factory=dict)


@dataclass
class Search:
    """One request's queries: views (n, 3, s, s) uint8, features (n, F) float32, or an item's id; and what is asked."""

    queries: np.ndarray | int
    k: int | None
    where: str | None
    explain: bool = False
    partial: bool = False
    done: asyncio.Future[Found] = field(default_factory=asyncio.Future)

    def __len__(self) -> int:
        return 1 if isinstance(self.queries, int) else len(self.queries)


Answers = list[tuple[Search, Found | Exception]]


def answer(generation: Generation, batch: Sequence[Search], metrics: Metrics) -> Answers:
    """Each search and what comes of it; an error of one does not touch the others."""
    started = time.perf_counter()
    answers: Answers = []
    ready: list[tuple[Search, np.ndarray]] = []
    new: list[Search] = []
    for search in batch:
        try:
            if isinstance(search.queries, int):
                row = generation.row_of(search.queries)
                ready.append((search, generation.queries_like(np.array([row]))))
            elif search.queries.shape[1:] != generation.encoder.shape:
                raise OutOfDate
            else:
                new.append(search)
        except Exception as error:
            answers.append((search, error))
    ready += _encoded(generation, new)
    metrics.encode.observe(time.perf_counter() - started)
    alike: dict[tuple[int | None, str | None, bool], list[tuple[Search, np.ndarray]]] = {}
    for search, xq in ready:
        alike.setdefault((search.k, search.where, search.partial), []).append((search, xq))
    for group in alike.values():
        started = time.perf_counter()
        try:
            answers += _searched(generation, group)
        except Exception as error:
            answers += [(search, error) for search, _ in group]
        metrics.search.observe(time.perf_counter() - started)
    return answers


def _encoded(generation: Generation, searches: Sequence[Search]) -> list[tuple[Search, np.ndarray]]:
    """Searches of views or features, each with its vectors (n, d)."""
    if not searches:
        return []
    x = np.concatenate([search.queries for search in searches if not isinstance(search.queries, int)])
    parts = (x[start : start + ENCODE_BATCH] for start in range(0, len(x), ENCODE_BATCH))
    xq = np.concatenate([generation.encoder.encode_batch(part) for part in parts])
    ends = np.cumsum([len(search) for search in searches])
    return list(zip(searches, np.split(xq, ends[:-1]), strict=True))


def _searched(generation: Generation, group: Sequence[tuple[Search, np.ndarray]]) -> Answers:
    """Searches of the same k and condition, all of which take a partial answer, or none."""
    first, n = group[0][0], len(generation)
    k = min(K_RESULTS, n) if first.k is None else first.k
    spare = any(isinstance(search.queries, int) for search, _ in group)  # items like one: itself is found, left out
    xq = np.concatenate([vectors for _, vectors in group])
    missing: set[int] = set()
    wide = min(n, k + 1) if spare and 1 <= k <= n else k
    hits = generation.search_vectors(xq, wide, first.where, missing if first.partial else None)
    rows = np.array(sorted({hit.row for of_query in hits for hit in of_query}), np.int64)
    labels = dict(zip(rows.tolist(), generation.labels(rows), strict=True))
    metadata = generation.metadata(sorted({hit.id for of_query in hits for hit in of_query}))
    answers: Answers = []
    start = 0
    for search, vectors in group:
        end = start + len(vectors)
        mine = [_without(search.queries, of_query, k) for of_query in hits[start:end]]
        start = end
        found = Found(mine, generation.name, generation.top_score, len(missing), labels, metadata)
        if search.explain:
            _explain(generation, found, vectors)
        answers.append((search, found))
    return answers


def _without(own: np.ndarray | int, hits: Sequence[Hit], k: int) -> list[Hit]:
    """The k best of another id than `own`, ranked anew."""
    others = [hit for hit in hits if not isinstance(own, int) or hit.id != own]
    return [hit._replace(rank=rank) for rank, hit in enumerate(others[:k], 1)]


def _explain(generation: Generation, found: Found, xq: np.ndarray) -> None:
    """Add the codes of all hits, and what each adds to the score."""
    for number, of_query in enumerate(found.hits):
        rows = np.array([hit.row for hit in of_query], np.int64)
        found.codes |= dict(zip(rows.tolist(), generation.codes(rows).tolist(), strict=True))
        scores = generation.segment_scores(xq[number], rows).tolist()
        found.segments |= {(number, row): parts for row, parts in zip(rows.tolist(), scores, strict=True)}
