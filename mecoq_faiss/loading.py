"""Images decoded and cut into views on worker processes, in the order asked for."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .datasets import ImageSource, UnreadableImage
from .views import ViewSpec, crop, draw_view, fixed_view

logger = logging.getLogger("mecoq_faiss")
MAX_WORKERS = 8
FEW_IMAGES = 512  # below this, starting processes costs more than it saves


class LoadedBatch(NamedTuple):
    """b rows with v views each."""

    images: Tensor  # (b, v, 3, s, s) uint8
    colours: Tensor  # (b, v, 7) float32, parameters of `views.apply_colour`; zeros for fixed views
    rows: np.ndarray  # (b,) int64, rows of the source
    readable: np.ndarray  # (b,) bool; the pixels of an unreadable image are zeros


class _Views(Dataset[tuple[Tensor, Tensor, int, str]]):
    """Item (row, views): the random views of those numbers, or the fixed view where there are none."""

    def __init__(self, source: ImageSource, size: int, spec: ViewSpec | None, seed: int) -> None:
        self.source, self.size, self.spec, self.seed = source, size, spec, seed

    def __getitem__(self, item: tuple[int, tuple[int, ...]]) -> tuple[Tensor, Tensor, int, str]:
        row, numbers = item
        count = max(1, len(numbers))
        colours = torch.zeros(count, 7)
        try:
            if self.spec is None:
                image = self.source.open(row, draft=self.size)
                return fixed_view(image, self.size)[None], colours, row, ""
            image = self.source.open(row, draft=2 * self.size)
            views = [draw_view(self.spec, *image.size, key=(self.seed, number, row)) for number in numbers]
            images = torch.stack([crop(image, view.box, self.size) for view in views])
            return images, torch.from_numpy(np.stack([view.colour for view in views])), row, ""
        except UnreadableImage as error:
            return torch.zeros(count, 3, self.size, self.size, dtype=torch.uint8), colours, row, str(error)


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
        """Yield one `LoadedBatch` for each list of (row, view numbers); all rows of a list have as many views."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches_of_items,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_interrupt,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or the loader would draw from the global one
        )
        for images, colours, rows, errors in loader:
            for row, error in zip(rows, errors, strict=True):
                if error and row not in self.unreadable:
                    self.unreadable[row] = error
                    logger.warning("skipped: %s", error)
            readable = np.array([not error for error in errors])
            yield LoadedBatch(images, colours, np.array(rows, dtype=np.int64), readable)


def _collate(items: list[tuple[Tensor, Tensor, int, str]]) -> tuple[Tensor, Tensor, list[int], list[str]]:
    images, colours, rows, errors = zip(*items, strict=True)
    return torch.stack(images), torch.stack(colours), list(rows), list(errors)


def _ignore_interrupt(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides


def _choose_workers(images: int) -> int:
    if images < FEW_IMAGES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)
