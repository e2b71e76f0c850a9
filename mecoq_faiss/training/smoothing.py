"""Features averaged with their near neighbors': what is an image's alone goes, what its kind shares stays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mecoq_faiss.backbone.feature_cache import from_cache, write_together
from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.index.nearest import by_inner_product
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.storage.shards import Arrays
from mecoq_faiss.training.standardized import Standardized

FORMAT = 1
MOST_ROWS = 50_000  # among which neighbors are sought; a seeded sample of more
BLOCK, SHARD_BLOCKS = 512, 20  # rows at a time
POWER = 3  # of a neighbor's cosine, its weight
ROUNDING = 1e-5  # between cosines of the same two rows


class Smoothing:
    """Averages rows of features (n, F), standardized and of norm 1, with near ones.

    A row's neighbors are those of its `neighbors` nearest, by cosine, that have it among as many nearest of theirs
    (k-reciprocal); the weight of each is the third power of the cosine, the row's own is 1. They are sought among all
    rows, or of more than MOST_ROWS in a seeded sample.
    """

    def __init__(self, features: np.ndarray | FeatureRows, neighbors: int) -> None:
        self.features = Standardized(features, "cpu")
        self.sampled = np.sort(np.random.default_rng(0).permutation(len(features))[:MOST_ROWS])
        self.sample = self.features.take(self.sampled).numpy()
        self.k = min(neighbors + 1, len(self.sample))  # with the row itself
        starts = range(0, len(self.sample), BLOCK)
        blocks = progress(starts, total=len(starts), label="neighbors", unit="blocks")
        found = [by_inner_product(self.sample[i : i + BLOCK], self.sample, self.k) for i in blocks]
        self.D, self.I = (np.concatenate(part) for part in zip(*found, strict=True))
        self.radius = self.D[:, -1] - ROUNDING  # (m,): the cosine of the farthest that counts

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Those from start to stop, (b, F) float32 of norm 1."""
        numbers = np.arange(start, min(stop, len(self.features)))
        x = self.features.take(numbers).numpy()
        inside = np.isin(numbers, self.sampled)
        places = np.searchsorted(self.sampled, numbers[inside])
        D, I = np.empty((len(x), self.k), np.float32), np.empty((len(x), self.k), np.int64)
        D[inside], I[inside] = self.D[places], self.I[places]
        D[~inside], I[~inside] = by_inner_product(x[~inside], self.sample, self.k)
        weights = np.where(self.radius[I] <= D, np.maximum(D, 0) ** POWER, 0)
        mean = np.einsum("bk,bkf->bf", weights, self.sample[I])
        mean[~inside] += x[~inside]
        return F.normalize(torch.from_numpy(mean), dim=1).numpy()


def smoothed_features(
    features: np.ndarray | FeatureRows,
    rows: np.ndarray,
    neighbors: int,
    key: dict[str, Any],
    *,
    folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed features (n, F) float16 and their `rows` (n,), from the cache file or computed into it.

    `key` says what the features were made of. Several ranks, which all call this alike, make a share each.
    """
    key = {"smoothed": FORMAT, "neighbors": neighbors, **key}
    blocks = -(-len(features) // BLOCK)
    smoothing = cache(lambda: Smoothing(features, neighbors))

    def compute(start: int, stop: int) -> Iterator[Arrays]:
        numbers, average = range(start, stop), smoothing()
        shown = progress(numbers, total=stop, initial=start, label="smoothed features", unit="blocks")
        for number in shown if ranks.first else numbers:
            smoothed = average.rows(number * BLOCK, (number + 1) * BLOCK).astype(np.float16)
            yield {"features": smoothed, "rows": rows[number * BLOCK :][: len(smoothed)]}

    def write(path: Path) -> None:
        write_together(path, key, compute, blocks, SHARD_BLOCKS, ranks)

    return from_cache("smoothed", key, write, folder, ranks)
