"""Batches of items and of some near neighbors of each, by the exact metric of given features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.index.nearest import nearest
from mecoq_faiss.training.pairs import Pairs

MOST_ROWS = 50_000  # items that are trained on, a seeded sample of more: their neighbors are found among themselves
NEAREST, DRAWN = 50, 10  # neighbors of an item, and how many of them stand in a batch with it


class Neighbors(NamedTuple):
    """Features (b, F) of items, (n, F) of neighbors of theirs; bool (b, b + n), whether two are the same one."""

    view1: Tensor
    view2: Tensor
    same: Tensor


class NeighborPairs(Pairs):
    """Each item with 10 of its 50 nearest, drawn anew every epoch; of features (n, V, F) the first views."""

    def __init__(
        self, features: np.ndarray | FeatureRows, metric: str, batch_size: int, seed: int, device: str
    ) -> None:
        rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_ROWS])
        x = features[rows]
        self.features = np.ascontiguousarray(x if x.ndim == 2 else x[:, 0], dtype=np.float32)
        self.near = nearest(self.features, min(NEAREST, len(rows) - 1), metric)  # (n, NEAREST)
        super().__init__(np.arange(len(rows)), batch_size, seed, device)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Neighbors]:  # type: ignore[override]
        """The batches of an epoch, from a step on."""
        for step, rows in list(enumerate(self.order(epoch)))[start_step:]:
            rng = np.random.default_rng((self.seed, epoch, 1 + step))  # numpy pads keys with zeros
            drawn = rng.integers(0, self.near.shape[1], (len(rows), DRAWN))
            others = np.unique(self.near[rows[:, None], drawn])
            same = torch.from_numpy(rows[:, None] == np.concatenate([rows, others]))
            yield Neighbors(self._take(rows), self._take(others), same.to(self.device))

    def _take(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.features[rows]).to(self.device)
