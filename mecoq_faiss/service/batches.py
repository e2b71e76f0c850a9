"""Searches of many clients put together: what waits while one batch is computed is the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.bundle.shard import Replaced
from mecoq_faiss.service.metrics import Metrics
from mecoq_faiss.service.searching import Answers, Found, Search, answer


class Busy(Exception):
    """The queue is full: try again in a moment."""


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
        self._counted(len(search))
        self._waiting.put_nowait(search)
        return await search.done

    def _counted(self, more: int) -> None:
        self._count += more
        self.metrics.waiting.set(self._count)

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and sum(map(len, batch)) < ENCODE_BATCH:
                batch.append(self._waiting.get_nowait())
            self._counted(-sum(map(len, batch)))
            batch = [search for search in batch if not search.done.done()]  # whose client is gone
            loop = asyncio.get_running_loop()
            for search, found in await loop.run_in_executor(self._thread, self._answers, batch) if batch else ():
                if search.done.done():
                    continue
                if isinstance(found, Found):
                    search.done.set_result(found)
                else:
                    search.done.set_exception(found)

    def _answers(self, batch: Sequence[Search]) -> Answers:
        """What comes of a batch; what a shard elsewhere has no longer is asked of the export that took its place."""
        answers = self._tried(batch)
        late = [search for search, found in answers if isinstance(found, Replaced)]
        if not late:
            return answers
        with suppress(OSError, ValueError):
            self.bundle.reload()
        return [(search, found) for search, found in answers if not isinstance(found, Replaced)] + self._tried(late)

    def _tried(self, batch: Sequence[Search]) -> Answers:
        try:
            with self.bundle.in_use() as generation:
                return answer(generation, batch, self.metrics)
        except Exception as error:  # whatever it is: the next batch is to be answered
            return [(search, error) for search in batch]
