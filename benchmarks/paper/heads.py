"""A head on frozen features, and the training loop that all rivals with a loss share: batches of two views, Adam."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mecoq_faiss.model import Standardize
from mecoq_faiss.training.pairs import CachedPairs

Array = NDArray[Any]
HIDDEN = 1024  # of heads with a hidden layer
ENCODED_AT_ONCE = 4096


class Head(nn.Module):
    """What learns from pairs of views of features (b, F), and is searched through FAISS.

    Args:
        feature_dim: F.
        settings: what the loss and `fit` need: at least `lr`, `batch_size` and `epochs`.
    """

    def __init__(self, feature_dim: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self.standardize = Standardize(feature_dim)

    def loss(self, view1: Tensor, view2: Tensor, rows: Array) -> Tensor:
        """What one step minimises; views (b, F) of the images `rows` (b,)."""
        raise NotImplementedError

    def start_epoch(self, epoch: int, views: Array) -> None:
        """Called before each epoch, which count from 1, with all views (n, V, F)."""

    def after_step(self) -> None:
        """Called after each step of the optimizer."""

    def queries(self, x: Array) -> Array:
        """Features (n, F) -> what the index of `index` takes."""
        raise NotImplementedError

    def index(self, xb: Array) -> Any:
        """A filled FAISS index of features xb (n, F)."""
        raise NotImplementedError

    def fit(self, views: Array, seed: int) -> Self:
        """Train on views (n, V, F)."""
        s = self.settings
        self.standardize.fit(torch.from_numpy(np.asarray(views[:, 0], dtype=np.float32)))
        optimizer = torch.optim.Adam(self.parameters(), lr=s["lr"], fused=True)
        pairs = CachedPairs(views, s["batch_size"], seed, "cpu")
        for epoch in range(1, s["epochs"] + 1):
            self.start_epoch(epoch, views)
            for rows, pair in zip(pairs.order(epoch), pairs.batches(epoch), strict=True):
                loss = self.loss(pair.view1, pair.view2, rows)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                self.after_step()
        return self.eval()


def mlp(feature_dim: int, width: int) -> nn.Sequential:
    """One hidden layer of `HIDDEN`."""
    return nn.Sequential(nn.Linear(feature_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))


def parts(x: Array) -> list[Tensor]:
    """Features (n, F) as float32 tensors of at most `ENCODED_AT_ONCE` rows."""
    starts = range(0, len(x), ENCODED_AT_ONCE)
    return [torch.from_numpy(np.array(x[i : i + ENCODED_AT_ONCE], dtype=np.float32)) for i in starts]


def contrast(similarity: Tensor) -> Tensor:
    """Cross entropy of each item's partner among all others, of similarities (2N, 2N), already over temperature.

    Rows i and i + N show one image.
    """
    N = len(similarity) // 2
    similarity = similarity.masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(similarity, torch.cat([torch.arange(N, 2 * N), torch.arange(N)]))
