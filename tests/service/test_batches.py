"""Searches put together: each gets its own answer, whatever comes of the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss import open_bundle
from mecoq_faiss.service.batches import Batches, Busy
from mecoq_faiss.service.metrics import Metrics
from mecoq_faiss.service.searching import Found, OutOfDate, Search


def views(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)


def answered(collection: Path, *asked: tuple) -> list[Found | BaseException]:
    """Searches that come at once, one batch."""

    async def run() -> list[Found | BaseException]:
        batches = Batches(bundle, Metrics(), 100)
        searches = [Search(*one) for one in asked]
        waiting = [asyncio.ensure_future(batches.search(search)) for search in searches]
        await asyncio.sleep(0)  # all of them wait
        batches.start()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await batches.stop()
        return found

    with open_bundle(collection / "bundle") as bundle:
        return asyncio.run(run())


def test_one_batch_answers_all_and_errors_stay_with_whom_they_are_of(collection: Path) -> None:
    wrong_size = np.zeros((1, 3, 9, 9), np.uint8)
    asked: list[tuple] = [
        (views(2), 3, None),
        (views(1, 1), 3, "year <"),
        (7, 3, None),
        (wrong_size, 3, None),
        (10**9, 3, None),
        (views(1, 2), 99, None),
        (views(1, 4), 3, "year < 0", True),
        (views(1, 3), None, "year < 2010", True),
    ]
    found = answered(collection, *asked)
    kinds = [Found, ValueError, Found, OutOfDate, KeyError, ValueError, Found, Found]
    assert [type(one) for one in found] == kinds
    with open_bundle(collection / "bundle") as bundle, bundle.in_use() as generation:
        for (queries, k, where, *_), one in zip(asked, found, strict=True):
            if isinstance(one, Found) and isinstance(queries, np.ndarray):
                wanted = generation.search_vectors(generation.encoder.encode_batch(queries), k, where)
                scores = [[hit.score for hit in hits] for hits in wanted]
                np.testing.assert_allclose([[hit.score for hit in hits] for hits in one.hits], scores, atol=1e-5)
    last = found[-1]
    assert isinstance(last, Found) and len(last.hits[0]) == 10
    assert all(last.metadata[hit.id]["year"] < 2010 and last.labels[hit.row] in ("a", "b") for hit in last.hits[0])
    assert all(sum(last.segments[0, hit.row]) == pytest.approx(hit.score, abs=1e-5) for hit in last.hits[0])


def test_a_full_queue_is_refused_and_a_large_request_alone_is_not(collection: Path) -> None:
    async def run() -> None:
        batches = Batches(bundle, Metrics(), 4)
        first = asyncio.ensure_future(batches.search(Search(views(9), 1, None)))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await batches.search(Search(views(1), 1, None))
        batches.start()
        assert len((await first).hits) == 9
        await batches.stop()

    with open_bundle(collection / "bundle") as bundle:
        asyncio.run(run())


def test_whatever_happens_the_next_batch_is_answered(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        batches = Batches(bundle, Metrics(), 4)
        batches.start()
        with monkeypatch.context() as patch:
            patch.setattr(bundle.encoder, "encode_batch", lambda batch: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await batches.search(Search(views(1), 1, None))
        assert len((await batches.search(Search(views(1), 1, None))).hits) == 1
        await batches.stop()

    with open_bundle(collection / "bundle") as bundle:
        asyncio.run(run())
