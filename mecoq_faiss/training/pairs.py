"""Batches of two views of each image: from cached features, from fresh images, or from feature vectors.

A batch depends only on (seed, epoch, step), so training can continue in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.views import apply_color
from mecoq_faiss.runtime.ranks import ALONE, Ranks


class Pair(NamedTuple):
    """Two views of b images: (b, 3, s, s) float in [0, 1], or features (b, F); row i of both shows one image.

    `rows` (b,) are the images' rows of the source. On several ranks a rank has the views of its share, and `counts`
    says how many each has; `rows` are those of the whole batch.
    """

    view1: Tensor
    view2: Tensor
    rows: np.ndarray | None = None
    counts: list[int] | None = None

    @property
    def total(self) -> int:
        """Images in the whole batch."""
        return len(self.view1) if self.counts is None else sum(self.counts)


class Pairs:
    """The order: every epoch a new permutation of the rows, cut into batches; a last batch of one image is left out."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int, device: str) -> None:
        self.rows, self.batch_size, self.seed, self.device = rows, batch_size, seed, device
        full, rest = divmod(len(rows), batch_size)
        self.steps_per_epoch = full + (rest >= 2)

    def order(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch."""
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        return [shuffled[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.steps_per_epoch)]

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        """Yield the batches of an epoch from `start_step` on, of each this rank's share."""
        raise NotImplementedError

    def examples(self) -> Iterator[Tensor]:
        """What the model will be given once it is trained, in batches, for measuring: by default a view of each row."""
        return (pair.view1 for pair in self.batches(epoch=0))


class CachedPairs(Pairs):
    """Two different ones of the V cached views of each image: features (n, V, F).

    `source_rows` (n,) are theirs in the source, where some of it cannot be read.
    """

    def __init__(
        self,
        features: np.ndarray | FeatureRows,
        batch_size: int,
        seed: int,
        device: str,
        source_rows: np.ndarray | None = None,
    ) -> None:
        super().__init__(np.arange(len(features)), batch_size, seed, device)
        self.features = features
        self.source_rows = self.rows if source_rows is None else source_rows

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        """The pairs of an epoch, from a step on."""
        V = self.features.shape[1]
        for step, rows in list(enumerate(self.order(epoch)))[start_step:]:
            rng = np.random.default_rng((self.seed, epoch, 1 + step))  # numpy pads keys with zeros
            first = rng.integers(0, V, len(rows))
            second = (first + rng.integers(1, V, len(rows))) % V
            own = ranks.share(len(rows))
            view1, view2 = (self._take(rows[own], views[own]) for views in (first, second))
            yield Pair(view1, view2, self.source_rows[rows], ranks.counts(len(rows)))

    def _take(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        if isinstance(self.features, np.ndarray):
            taken = self.features[rows, views]
        else:  # rows of a file: whole rows are read
            taken = self.features[rows][np.arange(len(rows)), views]
        return torch.from_numpy(taken).to(self.device).float()


class FeaturePairs(Pairs):
    """For single feature vectors (n, F): two independent dropouts of each."""

    def __init__(
        self, features: np.ndarray | FeatureRows, dropout: float, batch_size: int, seed: int, device: str
    ) -> None:
        super().__init__(np.arange(len(features)), batch_size, seed, device)
        self.features, self.dropout = features, dropout

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        """The pairs of an epoch, from a step on."""
        for step, rows in list(enumerate(self.order(epoch)))[start_step:]:
            rng = np.random.default_rng((self.seed, epoch, 1 + step))  # numpy pads keys with zeros
            own, rows = ranks.share(len(rows)), np.sort(rows)
            x = self._vectors(rows[own])
            shape, keep = (len(rows), x.shape[1]), 1 - self.dropout
            views = [torch.from_numpy(x * (rng.random(shape, dtype=np.float32)[own] < keep) / keep) for _ in range(2)]
            yield Pair(views[0].to(self.device), views[1].to(self.device), rows, ranks.counts(len(rows)))

    def examples(self) -> Iterator[Tensor]:
        """The vectors without dropout, which has another variance."""
        return (torch.from_numpy(self._vectors(rows)).to(self.device) for rows in self.order(epoch=0))

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        x = np.array(self.features[np.sort(rows)], dtype=np.float32)  # a copy: what a file gives may be read-only
        return x if x.ndim == 2 else x[:, 0]


class ImagePairs(Pairs):
    """Two fresh random views of each image, new ones every epoch."""

    def __init__(self, loader: ImageLoader, batch_size: int, seed: int, device: str) -> None:
        super().__init__(np.arange(len(loader.source)), batch_size, seed, device)
        self.loader = loader

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        """The pairs of an epoch, from a step on."""
        numbers = (2 * epoch, 2 * epoch + 1)
        order = self.order(epoch)[start_step:]
        shares = [rows[ranks.share(len(rows))] for rows in order]
        # a share of none loads an image and drops it, for a loader takes no empty batch
        loaded = [own if len(own) else rows[:1] for own, rows in zip(shares, order, strict=True)]
        items = [[(int(row), numbers) for row in rows] for rows in loaded]
        for batch, own, rows in zip(self.loader.batches(items), shares, order, strict=True):
            readable = torch.from_numpy(batch.readable[: len(own)])
            images = batch.images[: len(own)][readable].to(self.device, non_blocking=True)
            colors = batch.colors[: len(own)][readable]
            views = apply_color(images.flatten(0, 1), colors.flatten(0, 1)).unflatten(0, (-1, 2))
            shares_of_all = ranks.counts(len(rows))
            known = ranks.gather_rows(torch.from_numpy(own)[:, None].where(readable[:, None], -1), shares_of_all)
            counts = [int((part >= 0).sum()) for part in known.split(shares_of_all)]
            yield Pair(views[:, 0], views[:, 1], known[known >= 0].numpy(), counts)
