"""Batches of queries and of items, near neighbors of theirs among these, by the exact metric of given features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.index.nearest import nearest
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.pairs import Pairs

MOST_ROWS = 50_000  # items, and queries, that are trained on; a seeded sample of more
QUERIES = 128  # of a batch
FEWEST_STEPS = 64  # of an epoch: where items are too few for that, each is a query several times
NEAREST, DRAWN = 50, 10  # neighbors of a query, and how many of them stand in a batch with it


class Neighbors(NamedTuple):
    """Features of queries (b, F) and of items (n, F); bool (b, n), whether a query and an item are the same one.

    On several ranks a rank has the queries of its share and all items; `counts` says how many queries each has.
    """

    view1: Tensor
    view2: Tensor
    same: Tensor
    counts: list[int] | None = None

    @property
    def total(self) -> int:
        """Queries in the whole batch."""
        return len(self.view1) if self.counts is None else sum(self.counts)


class NeighborPairs(Pairs):
    """Queries, each with 10 of its 50 nearest items, drawn anew every time.

    Every item is a query once an epoch, or of few items so often that there are 64 steps: training lasts long enough
    then. Where `queries`, of the same width, are given, an epoch has these once (a few, seen often, are learned by
    heart), and as many items are drawn at random too, so that those come up which are near to none. Of features
    (n, V, F) the first views are taken.
    """

    def __init__(
        self,
        features: np.ndarray | FeatureRows,
        metric: str,
        batch_size: int,
        seed: int,
        device: str,
        queries: np.ndarray | FeatureRows | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.features = _sample(features, seed)
        self.queries = None if queries is None else _sample(queries, seed)
        own, n = self.queries is None, len(self.features if self.queries is None else self.queries)
        near = nearest(self.features, min(NEAREST, len(self.features) - own), metric, self.queries, ranks.share(n))
        self.near = ranks.gather_rows(torch.from_numpy(near), ranks.counts(n)).numpy()
        times = -(-FEWEST_STEPS * batch_size // n) if own else 1
        super().__init__(np.tile(np.arange(n), times), batch_size, seed, device)

    def batches(  # type: ignore[override]
        self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE
    ) -> Iterator[Neighbors]:
        """The batches of an epoch, from a step on."""
        for step, rows in list(enumerate(self.order(epoch)))[start_step:]:
            rng = np.random.default_rng((self.seed, epoch, 1 + step))  # numpy pads keys with zeros
            near = self.near[rows[:, None], rng.integers(0, self.near.shape[1], (len(rows), DRAWN))]
            others = rows if self.queries is None else rng.integers(0, len(self.features), len(rows))
            items = np.unique(np.concatenate([near.ravel(), others]))
            own = rows[ranks.share(len(rows))]
            same = (own[:, None] == items) & (self.queries is None)
            queries = self._tensor(self.features if self.queries is None else self.queries, own)
            same_ones, counts = torch.from_numpy(same).to(self.device), ranks.counts(len(rows))
            yield Neighbors(queries, self._tensor(self.features, items), same_ones, counts)

    def _tensor(self, x: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(x[rows]).to(self.device)


def _sample(features: np.ndarray | FeatureRows, seed: int) -> np.ndarray:
    x = features[np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_ROWS])]
    return np.ascontiguousarray(x if x.ndim == 2 else x[:, 0], dtype=np.float32)
