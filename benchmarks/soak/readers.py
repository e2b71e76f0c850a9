"""Searches from many threads and processes while updates land: every answer is right for the generation it is of.

After each update the bundle is kept under a second name. At the end each answer is compared with a brute-force search
of the codes of its generation; it may be of any generation from the one that its reader held before the search to the
one held after it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.soak.updates import Collection, make_bundle
from mecoq_faiss import load_encoder, open_bundle, update
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.index.codes import decode_codes

THREADS, PROCESSES, UPDATES, IMAGES, CHANGED = 16, 8, 40, 200, 3
QUERIES, K = 12, 10
TOLERANCE = 1e-4  # of scores


class Answer(NamedTuple):
    """What a search gave, and the generations (numbers of updates) held before and after it."""

    before: int
    after: int
    query: int
    found: tuple[tuple[float, int, str], ...]  # score, id, path


def run(
    folder: Path, updates: int = UPDATES, threads: int = THREADS, processes: int = PROCESSES, images: int = IMAGES
) -> dict[str, Any]:
    """How many searches there were, of how many generations, and how many answers were wrong."""
    photos, bundle = folder / "photos", folder / "bundle"
    photos.mkdir()
    collection = Collection(photos, images)
    make_bundle(photos, folder / "run", bundle)
    rng = np.random.default_rng(1)
    queries = rng.integers(0, 256, (QUERIES, 8, 8, 3), dtype=np.uint8)
    kept = [_keep(bundle, folder, 0)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager:
        stop, answers, ready = manager.Event(), manager.list(), manager.Semaphore(0)
        readers: list[Any] = [
            spawn.Process(target=_read_alone, args=(bundle, queries, stop, answers, ready)) for _ in range(processes)
        ]
        with open_bundle(bundle, "cpu") as opened:
            own = threading.Event()
            readers += [
                threading.Thread(target=_read, args=(opened, queries, own, answers, ready)) for _ in range(threads)
            ]
            for reader in readers:
                reader.start()
            for _ in readers:
                ready.acquire()
            for number in range(1, updates + 1):
                collection.change(CHANGED)
                update(bundle, photos, workers=0, device="cpu")
                kept.append(_keep(bundle, folder, number))
            own.set()
            stop.set()
            for reader in readers:
                reader.join()
        got = [answer for of_reader in answers for answer in of_reader]
        failed = [text for text in got if isinstance(text, str)]
    truth = [_Truth(path, queries) for path in kept]
    said = [answer for answer in got if not isinstance(answer, str)]
    wrong = [a for a in said if not any(truth[number].holds(a) for number in range(a.before, a.after + 1))]
    return {
        "threads": threads, "processes": processes, "updates": updates, "searches": len(said),
        "distinct": len(set(said)), "generations answered from": len({a.before for a in said if a.before == a.after}),
        "across a change": sum(a.before != a.after for a in said), "wrong": len(wrong), "errors": len(failed),
        "examples": [*failed[:3], *map(str, wrong[:3])],
    }  # fmt: skip


def _keep(bundle: Path, folder: Path, number: int) -> Path:
    """The generation's files once more, as links."""
    return Path(shutil.copytree(bundle, folder / "kept" / str(number), copy_function=os.link))


def _generation(bundle: Any) -> int:
    return len(bundle.manifest.get("history", []))


def _read_alone(bundle: Path, queries: np.ndarray, stop: Any, answers: Any, ready: Any) -> None:
    """The reader that a process is: it has the bundle for itself."""
    with open_bundle(bundle, "cpu") as opened:
        _read(opened, queries, stop, answers, ready)


def _read(bundle: Any, queries: np.ndarray, stop: Any, answers: Any, ready: Any) -> None:
    """Search and reload until `stop` is set; then hand over the answers, or the error."""
    got: list[Any] = []
    rng = np.random.default_rng(threading.get_ident() ^ os.getpid())
    ready.release()
    try:
        checked = time.monotonic()
        while True:
            query = int(rng.integers(len(queries)))
            before = _generation(bundle)
            [hits] = bundle.search(queries[query], k=K)
            after = _generation(bundle)
            got.append(Answer(before, after, query, tuple((hit.score, hit.id, hit.path) for hit in hits)))
            bundle.reload()
            if time.monotonic() > checked + 0.5:  # asking the other process takes time
                checked = time.monotonic()
                if stop.is_set():
                    break
    except Exception as error:  # every one counts
        got.append(repr(error))
    answers.append(got)


class _Truth:
    """One generation's items and their scores with each query, from its codes alone."""

    def __init__(self, bundle: Path, queries: np.ndarray) -> None:
        encoder = load_encoder(bundle, "cpu")
        codebooks = encoder.model.quantizer.unit_codebooks().detach().numpy()
        with pinned(bundle) as files, items_in(files) as items:
            places = zip(items.ids.tolist(), items.all_paths().tolist(), strict=True)
            self._row_of = {place: row for row, place in enumerate(places)}
            self._scores = encoder.encode(queries) @ decode_codes(codebooks, np.asarray(items.codes)).T

    def holds(self, answer: Answer) -> bool:
        """Whether the answer has the best items of this generation, each with its own score."""
        scores = self._scores[answer.query]
        best = np.sort(scores)[::-1][: len(answer.found)]
        rows = [self._row_of.get((id, path)) for _, id, path in answer.found]
        if None in rows or len(set(rows)) != len(rows) or len(rows) != K:
            return False
        said = np.array([score for score, _, _ in answer.found])
        own = scores[np.array(rows, np.int64)]
        return bool(np.allclose(said, best, atol=TOLERANCE) and np.allclose(said, own, atol=TOLERANCE))
