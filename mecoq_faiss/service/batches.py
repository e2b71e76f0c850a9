"""Searches of many clients put together: what waits while one batch is computed is the next batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.generation import Generation, Hit
from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.service.metrics import Metrics


class Busy(Exception):
    """The queue is full: try again in a moment."""


class OutOfDate(Exception):
    """Another export took the bundle's place meanwhile, whose images have another size."""


@dataclass
class Found:
    """What a search says: for each query its hits, and what the answer adds to them, by row or by (query, row).

    Attributes:
        hits: best first.
        generation, top: of the export that was searched its name and its highest score.
        labels, metadata: by row and by id.
        codes: (M,) by row; segments: (M,) by query and row; empty unless asked for.
    """

    hits: list[list[Hit]]
    generation: str
    top: float | None
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
    done: asyncio.Future[Found] = field(default_factory=asyncio.Future)

    def __len__(self) -> int:
        return 1 if isinstance(self.queries, int) else len(self.queries)


class Batches:
    """Answers searches of one bundle, one batch at a time, in a thread of its own.

    So FAISS and torch have one pool of threads each, however many clients there are.

    Args:
        bundle: open.
        metrics: where the times go.
        capacity: the most queries that wait.
    """

    def __init__(self, bundle: Bundle, metrics: Metrics, capacity: int) -> None:
        self.bundle, self.metrics, self.capacity = bundle, metrics, capacity
        self._thread = ThreadPoolExecutor(1, "search")
        self._waiting: asyncio.Queue[Search] = asyncio.Queue()
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; called where the event loop runs."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End, after the batch that is computed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown()

    async def search(self, search: Search) -> Found:
        """The answer to a search; Busy where too many wait, ValueError for what is wrong with it."""
        if self._count + len(search) > self.capacity and self._count:
            raise Busy
        self._count += len(search)
        self.metrics.waiting.set(self._count)
        self._waiting.put_nowait(search)
        return await search.done

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and sum(map(len, batch)) < ENCODE_BATCH:
                batch.append(self._waiting.get_nowait())
            self._count -= sum(map(len, batch))
            self.metrics.waiting.set(self._count)
            batch = [search for search in batch if not search.done.done()]  # whose client is gone
            if batch:
                for search, found in await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._answer, batch
                ):
                    if search.done.done():
                        continue
                    if isinstance(found, Found):
                        search.done.set_result(found)
                    else:
                        search.done.set_exception(found)

    def _answer(self, batch: Sequence[Search]) -> list[tuple[Search, Found | Exception]]:
        """Each search and what comes of it; an error of one does not touch the others."""
        with self.bundle.in_use() as generation:
            ready: list[tuple[Search, np.ndarray]] = []
            answers: list[tuple[Search, Found | Exception]] = []
            try:
                vectors = self._encode(generation, batch)
            except Exception as error:
                return [(search, error) for search in batch]
            for search, xq in zip(batch, vectors, strict=True):
                if isinstance(xq, Exception):
                    answers.append((search, xq))
                else:
                    ready.append((search, xq))
            alike: dict[tuple[int | None, str | None], list[tuple[Search, np.ndarray]]] = {}
            for one in ready:
                alike.setdefault((one[0].k, one[0].where), []).append(one)
            for (k, where), group in alike.items():
                answers += self._search(generation, k, where, group)
        return answers

    def _encode(self, generation: Generation, batch: Sequence[Search]) -> list[np.ndarray | Exception]:
        """The vectors (n, d) of each search."""
        encoder, started = generation.encoder, time.perf_counter()
        shape = encoder.shape
        found: list[np.ndarray | Exception | None] = []
        for search in batch:
            if isinstance(search.queries, int):
                try:
                    found.append(generation.queries_like(np.array([generation.row_of(search.queries)])))
                except KeyError as error:
                    found.append(error)
            elif search.queries.shape[1:] != shape:
                found.append(OutOfDate())
            else:
                found.append(None)
        given = [s.queries for s, xq in zip(batch, found, strict=True) if xq is None and not isinstance(s.queries, int)]
        if given:
            x = np.concatenate(given)
            parts = (x[start : start + ENCODE_BATCH] for start in range(0, len(x), ENCODE_BATCH))
            encoded = np.concatenate([encoder.encode_batch(part) for part in parts])
            pieces = iter(np.split(encoded, np.cumsum([len(part) for part in given])[:-1]))
            found = [next(pieces) if xq is None else xq for xq in found]
        self.metrics.encode.observe(time.perf_counter() - started)
        return found  # type: ignore[return-value]

    def _search(
        self, generation: Generation, k: int | None, where: str | None, group: Sequence[tuple[Search, np.ndarray]]
    ) -> list[tuple[Search, Found | Exception]]:
        """Searches that ask for the same, as one."""
        started = time.perf_counter()
        xq = np.concatenate([vectors for _, vectors in group])
        own = [search.queries if isinstance(search.queries, int) else None for search, _ in group]
        more = any(id is not None for id in own)  # items like one: itself is found, and left out
        n = len(generation)
        try:
            wanted = min(10, n) if k is None else k
            hits = generation.search_vectors(xq, min(n, wanted + 1) if more and 1 <= wanted <= n else wanted, where)
            answers: list[tuple[Search, Found | Exception]] = []
            first = 0
            for (search, vectors), id in zip(group, own, strict=True):
                mine = [[h for h in of_query if h.id != id][:wanted] for of_query in hits[first : first + len(vectors)]]
                mine = [[h._replace(rank=rank) for rank, h in enumerate(of_query, 1)] for of_query in mine]
                answers.append((search, _found(generation, search, vectors, mine)))
                first += len(vectors)
        except Exception as error:
            return [(search, error) for search, _ in group]
        self.metrics.search.observe(time.perf_counter() - started)
        return answers


def _found(generation: Generation, search: Search, xq: np.ndarray, hits: list[list[Hit]]) -> Found:
    rows = np.array(sorted({hit.row for of_query in hits for hit in of_query}), np.int64)
    ids = sorted({hit.id for of_query in hits for hit in of_query})
    labels = dict(zip(rows.tolist(), generation.labels(rows), strict=True))
    found = Found(hits, generation.name, generation.top_score, labels, generation.metadata(ids))
    if search.explain and len(rows):
        found.codes = dict(zip(rows.tolist(), generation.codes(rows).tolist(), strict=True))
        for number, of_query in enumerate(hits):
            mine = np.array([hit.row for hit in of_query], np.int64)
            scores = generation.segment_scores(xq[number], mine).tolist() if len(mine) else []
            found.segments |= {(number, row): s for row, s in zip(mine.tolist(), scores, strict=True)}
    return found
