"""A figure of held-out items while a model is trained: it is logged, and chooses nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mecoq_faiss.backbone.fixed_features import each_batch, fixed_features
from mecoq_faiss.config import K_MAP, TrainConfig
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import FeatureSource, ImageSource, Source
from mecoq_faiss.evaluation import average_precision, is_relevant, precision_at
from mecoq_faiss.evaluation.ranking import MOST_CELLS, search
from mecoq_faiss.index import build_index
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.devices import random_state_kept

FEWEST, MOST = 20, 2000  # items
NEIGHBORS = 10


def check_validation(validation: Source, source: Source) -> None:
    """ValueError where held-out items are of another kind or width than those trained on, too few, or the same."""
    if validation.kind != source.kind:
        raise ValueError(
            f"{validation.name} holds {validation.kind}, and {source.name}, which is trained on, {source.kind}: "
            "give validation of the same kind"
        )
    check_width(validation, source)
    _check_enough(validation.name, len(validation))
    if validation.fingerprint == source.fingerprint:
        raise ValueError(f"{validation.name} is what is trained on: give items for validation that are not")


def check_width(given: Source, source: Source) -> None:
    """ValueError where features are not finite, or not of the width of those trained on."""
    if isinstance(given, FeatureSource) and isinstance(source, FeatureSource):
        width, wanted = given.features.shape[-1], source.features.shape[-1]
        if width != wanted:
            raise ValueError(f"{given.name} holds features of width {width}, {source.name} of {wanted}")
        given.check_finite()


class Validation:
    """Measures a model on held-out items, each of them a query against all others by hard codes and AQS scores.

    Of more than 2,000 items it takes a seeded choice. A frozen backbone's features are computed here and kept; those
    of one that learns anew each time. Neither the model nor a random state changes.

    Raises ValueError where fewer than 20 items can be read.
    """

    def __init__(self, source: Source, model: MeCoQ, config: TrainConfig, device: str = "cpu") -> None:
        chosen = np.sort(np.random.default_rng(config.seed).permutation(len(source))[:MOST])
        self.source, self.model, self.device, self.workers = source.subset(chosen), model, device, config.workers
        self.every, self.last = max(1, config.epochs // 10), config.epochs
        self._kept: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
        with random_state_kept(device):
            features = self._features()  # also of one that learns: it shows what cannot be read
        if model.backbone.frozen:
            self._kept = features

    def after_epoch(self, epoch: int) -> dict[str, float]:
        """The figures after every max(1, epochs // 10)-th epoch and the last; else none."""
        return self.measure() if epoch % self.every == 0 or epoch == self.last else {}

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """The figures of the model as it is, means over the items, each as expected over orders of equal scores.

        With labels `validation_map`, MAP@1000 or of all the others, each query's precisions divided by its relevant
        items among those ranks, and `validation_precision_1`. Without, `validation_recall_10`: the share of each
        item's 10 nearest others, by the cosine of backbone features minus their mean, among its 10 best.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            with random_state_kept(self.device):
                features, rows = self._kept or self._features()
                quantizer = self.model.coder
                z = self.model.vectors(torch.from_numpy(features).to(self.device))
                xq = z.cpu().numpy()
                codes, codebooks = quantizer.encode(z).cpu().numpy(), quantizer.index_codebooks().cpu().numpy()
        finally:
            self.model.train(was_training)
        D, I = without_self(
            *search(build_index(codebooks, codes, additive=quantizer is self.model.additive), xq, len(xq))
        )
        n = len(I)
        labels = None if self.source.labels is None else self.source.labels[rows]
        parts = np.array_split(np.arange(n), -(-n * n // MOST_CELLS))
        if labels is None:
            near, found = neighbors(features), 0.0
            for part in parts:
                relevance = np.take_along_axis(near[part], I[part], axis=1)
                found += len(part) * precision_at(relevance, [NEIGHBORS], scores=D[part])[0]
            return {"validation_recall_10": float(found / n)}
        ap, first = 0.0, 0.0
        for part in parts:
            relevance = is_relevant(labels[part], labels, I[part])
            ap += average_precision(relevance, K_MAP, scores=D[part]).sum()
            first += len(part) * precision_at(relevance, [1], scores=D[part])[0]
        return {"validation_map": float(ap / n), "validation_precision_1": float(first / n)}

    def _features(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Backbone features (n, F) of the fixed view, and rows (n,) of the source, of what can be read."""
        backbone, size = self.model.backbone, self.model.config.image_size
        if backbone.frozen:
            found, rows = fixed_features(self.source, backbone, size=size, workers=self.workers, device=self.device)
        else:
            assert isinstance(self.source, ImageSource)
            loader = ImageLoader(self.source, size, workers=self.workers)
            was_training = backbone.training
            backbone.to(self.device).eval()
            try:
                batches = list(each_batch(loader, backbone, self.device))
            finally:
                backbone.train(was_training)
            found, rows = (np.concatenate([batch[name] for batch in batches]) for name in ("features", "rows"))
        _check_enough(self.source.name, len(rows), "readable ")
        return np.array(found, dtype=np.float32), rows


def without_self(D: NDArray[np.float32], I: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and ids (n, n) of a search for all n items by the items themselves -> (n, n - 1), each without itself."""
    n = len(I)
    others = np.arange(n)[:, None] != I
    return D[others].reshape(n, n - 1), I[others].reshape(n, n - 1)


def neighbors(features: NDArray[np.float32], k: int = NEIGHBORS) -> NDArray[np.bool_]:
    """(n, n): whether item j is one of the k nearest to item i by the cosine of features (n, F) minus their mean."""
    x = features - features.mean(axis=0, dtype=np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -np.inf)
    near = np.zeros(cosine.shape, dtype=bool)
    np.put_along_axis(near, np.argsort(-cosine, axis=1, kind="stable")[:, :k], True, axis=1)
    return near


def _check_enough(name: str, items: int, which: str = "") -> None:
    if items < FEWEST:
        raise ValueError(f"{name} holds {items} {which}items, too few for validation: give at least {FEWEST}")
