"""What a distilled embedding is to rank its items like: the cosines of their standardized backbone features."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mecoq_faiss.backbone.fixed_features import fixed_features, made_of
from mecoq_faiss.config import TrainConfig
from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.data.sources import FeatureSource, Source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.smoothing import smoothed_features
from mecoq_faiss.training.standardized import Standardized


class Targets(Standardized):
    """Features (n, F), or of (n, V, F) the first view; `source_rows` (n,), rising, are theirs in the source."""

    def __init__(self, features: np.ndarray | FeatureRows, source_rows: np.ndarray, device: str) -> None:
        super().__init__(features, device)
        self.source_rows = source_rows

    def take(self, rows: np.ndarray) -> Tensor:
        """Rows (b,) of the source -> (b, F) float32 of norm 1."""
        return super().take(np.searchsorted(self.source_rows, rows))


def targets_of(
    source: Source,
    model: MeCoQ,
    c: TrainConfig,
    device: str,
    readable: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> Targets:
    """The targets of a source's readable items: of images, what the backbone says of the fixed view before training.

    They are smoothed over `preserve_neighbors`. `readable` (n,) are the items' rows, rising, where they are known
    already: the others are not tried again.
    """
    if readable is None:
        readable = np.arange(len(source))
    part = source if len(readable) == len(source) else source.subset(readable)
    features, rows = given_features(part, model, c.workers, device, ranks)
    if c.preserve_neighbors:
        key = made_of(part, model.backbone, model.config.image_size, device)
        features, rows = smoothed_features(features, rows, c.preserve_neighbors, key, ranks=ranks)
    return Targets(features, readable[rows], device)


def given_features(
    source: Source, model: MeCoQ, workers: int, device: str, ranks: Ranks = ALONE
) -> tuple[np.ndarray | FeatureRows, np.ndarray]:
    """Features of a source's readable items, (n, F) or (n, V, F), and their rows (n,), rising; read when indexed.

    Of images the frozen backbone's, of the fixed view, kept in the cache folder; several ranks make a share each.
    """
    if isinstance(source, FeatureSource):
        return source.features, np.arange(len(source))
    size = model.config.image_size
    return fixed_features(source, model.backbone, size=size, workers=workers, device=device, ranks=ranks)
