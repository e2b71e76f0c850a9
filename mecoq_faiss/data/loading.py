"""Images decoded and cut into views on worker processes, in the order asked for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mecoq_faiss.data.crop import crop, fixed_view
from mecoq_faiss.data.sources import ImageSource, UnreadableImage
from mecoq_faiss.data.views import ViewSpec, draw_view

logger = logging.getLogger("mecoq_faiss")
MAX_WORKERS = 8
FEW_IMAGES = 512  # below this, starting processes costs more than it saves
OWNER_SECONDS = 0.5  # how often a worker looks whether the process that it works for lives


class LoadedBatch(NamedTuple):
    """b rows with v views each."""

    images: Tensor  # (b, v, 3, s, s) uint8
    colors: Tensor  # (b, v, 7) float32, parameters of `views.apply_color`; zeros for fixed views
    rows: np.ndarray  # (b,) int64, rows of the source
    readable: np.ndarray  # (b,) bool; the pixels of an unreadable image are zeros


class _Item(NamedTuple):
    images: np.ndarray  # (v, 3, s, s) uint8
    colors: np.ndarray  # (v, 7) float32
    row: int
    error: str  # why the image cannot be read


@dataclass
class _Batch:
    """What a worker sends: numpy arrays, through a pipe. Tensors would go through /dev/shm, small in containers."""

    images: np.ndarray | Tensor
    colors: np.ndarray | Tensor
    rows: np.ndarray
    errors: list[str]

    def pin_memory(self) -> _Batch:
        """Called by the loader's own thread where there is a GPU."""
        self.images, self.colors = (torch.as_tensor(x).pin_memory() for x in (self.images, self.colors))
        return self


class _Views(Dataset[_Item]):
    """Item (row, views): the random views of those numbers, or the fixed view where there are none."""

    def __init__(self, source: ImageSource, size: int, spec: ViewSpec | None, seed: int) -> None:
        self.source, self.size, self.spec, self.seed = source, size, spec, seed

    def __getitem__(self, item: tuple[int, tuple[int, ...]]) -> _Item:
        row, numbers = item
        try:
            if self.spec is None:
                image = self.source.open(row, draft=self.size)
                return _Item(fixed_view(image, self.size)[None], np.zeros((1, 7), np.float32), row, "")
            image = self.source.open(row, draft=2 * self.size)
            views = [draw_view(self.spec, *image.size, key=(self.seed, number, row)) for number in numbers]
            images = np.stack([crop(image, view.box, self.size) for view in views])
            return _Item(images, np.stack([view.color for view in views]), row, "")
        except UnreadableImage as error:
            v = max(1, len(numbers))
            black = np.zeros((v, 3, self.size, self.size), np.uint8)
            return _Item(black, np.zeros((v, 7), np.float32), row, str(error))


class ImageLoader:
    """Loads batches of views from a source; names each unreadable image once, in `unreadable`.

    Args:
        source: where the images come from.
        size: side of a view in pixels.
        spec: how random views are drawn; None for the fixed view of inference.
        seed: of the random views.
        workers: processes, -1 chooses.
    """

    def __init__(
        self, source: ImageSource, size: int, *, spec: ViewSpec | None = None, seed: int = 0, workers: int = -1
    ) -> None:
        self.source = source
        self.workers = _choose_workers(len(source)) if workers < 0 else workers
        self.unreadable: dict[int, str] = {}
        self._dataset = _Views(source, size, spec, seed)

    def batches(self, batches_of_items: Sequence[Sequence[tuple[int, tuple[int, ...]]]]) -> Iterator[LoadedBatch]:
        """Yield one `LoadedBatch` for each list of (row, view numbers); all rows of a list have as many views.

        Raises RuntimeError where a process that decodes was killed.
        """
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches_of_items,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=partial(_begin, os.getpid()),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or the loader would draw from the global one
        )
        with _interrupts_held():
            loaded = iter(loader)
        while (batch := _next(loaded)) is not None:
            for row, error in zip(batch.rows.tolist(), batch.errors, strict=True):
                if error and row not in self.unreadable:
                    self.unreadable[row] = error
                    logger.warning("skipped: %s", error)
            readable = np.array([not error for error in batch.errors])
            yield LoadedBatch(torch.as_tensor(batch.images), torch.as_tensor(batch.colors), batch.rows, readable)


def _next(loaded: Iterator[_Batch]) -> _Batch | None:
    try:
        return next(loaded, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            "a process that decodes images was killed, perhaps for want of memory: run the same again, or with fewer "
            "--workers"
        ) from error


def _collate(items: list[_Item]) -> _Batch:
    images, colors, rows, errors = zip(*items, strict=True)
    return _Batch(np.stack(images), np.stack(colors), np.array(rows, dtype=np.int64), list(errors))


def _begin(owner: int, worker: int) -> None:
    """The start of a worker process, which leaves Ctrl-C to its parent and ends with it.

    Ctrl-C reaches the whole process group and the parent decides. A worker ends with its owner however that dies, also
    while it waits to hand over a batch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.name == "posix":  # elsewhere torch's own watch serves
        threading.Thread(target=_end_with, args=(owner,), daemon=True).start()


def _end_with(owner: int) -> None:
    parent = os.getppid()  # the owner, or a server that forks for it
    with suppress(ProcessLookupError):
        while os.getppid() == parent:
            os.kill(owner, 0)  # asks whether it is there
            time.sleep(OWNER_SECONDS)
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """SIGINT is kept until the end of the block: while processes start, Python would drop its exception.

    Hooks that run at a fork, and finalizers, print exceptions instead of raising them. SIGCHLD stays as it is: torch
    would raise a worker's death wherever the main thread is, even inside HDF5; a wait for a batch finds it in seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    received: list[tuple[int, FrameType | None]] = []
    posix = os.name == "posix"
    if posix:
        of_children, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)
        if posix:
            signal.signal(signal.SIGCHLD, of_children or signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if received:
        signal.raise_signal(signal.SIGINT)


def _choose_workers(images: int) -> int:
    if images < FEW_IMAGES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)
