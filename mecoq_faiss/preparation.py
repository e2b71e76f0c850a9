"""Before the first step: does the data fit the settings, how its batches are made, what is measured on it once."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch

from .config import ModelConfig, TrainConfig
from .datasets import FeatureSource, ImageSource
from .loading import ImageLoader
from .model import MeCoQ, Standardize
from .pairs import CachedPairs, FeaturePairs, ImagePairs, Pairs
from .trainer import NO_IMAGE
from .viewcache import cached_view_features
from .views import ViewSpec

logger = logging.getLogger("mecoq_faiss")
PREPARE_ROWS = 5000  # examples that the features' mean and scale, and the first codewords, are taken from


def fit_to_source(config: ModelConfig, source: ImageSource | FeatureSource) -> ModelConfig:
    """Features need the `features` backbone of their width, images any other."""
    if isinstance(source, ImageSource):
        if config.backbone == "features":
            raise ValueError(f"{source.name} holds images, and backbone 'features' takes features: choose another one")
        return config
    width = source.features.shape[-1]
    if config.feature_dim not in (None, width):
        raise ValueError(f"{source.name} holds features of width {width}, the model takes {config.feature_dim}")
    source.check_finite()
    return dataclasses.replace(config, backbone="features", weights="none", trainable_layers=0, feature_dim=width)


def check_enough(items: Any, config: TrainConfig) -> None:
    """ValueError where the items do not fill a batch."""
    if len(items) < config.batch_size:
        raise ValueError(
            f"{len(items)} readable images are fewer than one batch of {config.batch_size}: "
            f"give more images or a smaller --batch-size"
        )


def check_same_data(split_file: Path, source: ImageSource | FeatureSource) -> None:
    """ValueError where a run was started on other data than `source`."""
    try:
        split = json.loads(split_file.read_text(encoding="utf-8"))
        fingerprint, name = split["fingerprint"], split["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{split_file} is missing or damaged ({error}): train anew") from error
    if fingerprint != source.fingerprint:
        raise ValueError(f"{split_file.parent} was trained on other data ({name}): resume with the same --data")


def describe_data(source: ImageSource | FeatureSource) -> str:
    """What a run is trained on, as JSON; a protocol's chosen images are named."""
    description: dict[str, Any] = {
        "source": source.name,
        "items": len(source),
        "fingerprint": source.fingerprint,
        "protocol": source.protocol,
    }
    if source.protocol:
        description["paths"] = list(source.paths)
    return json.dumps(description, indent=2) + "\n"


def default_views(images: int) -> int:
    """Cached views of each of so many images: the more the better, and their forward passes are most of the work."""
    return min(40, max(10, 200_000 // images))


def make_pairs(source: ImageSource | FeatureSource, model: MeCoQ, c: TrainConfig, device: str) -> Pairs:
    """The batches of two views that the source, the backbone and the settings ask for."""
    if isinstance(source, FeatureSource):
        if source.features.ndim == 3 and source.features.shape[1] >= 2:
            return CachedPairs(source.features, c.batch_size, c.seed, device)
        return FeaturePairs(source.features, c.feature_dropout, c.batch_size, c.seed, device)
    size = model.config.image_size
    spec = ViewSpec(
        crop_scale=c.crop_scale, flip=c.flip, jitter=c.jitter, jitter_p=c.jitter_p, grey=c.grey, blur=c.blur
    )
    if c.view_cache and model.backbone.frozen:
        features, rows = cached_view_features(
            source, model.backbone, size=size, spec=spec, num_views=c.cached_views or default_views(len(source)),
            seed=c.seed, workers=c.workers, device=device, bf16=c.precision == "bf16",
        )  # fmt: skip
        if len(rows) < len(source):
            logger.warning("%d of %d images cannot be read", len(source) - len(rows), len(source))
        return CachedPairs(features, c.batch_size, c.seed, device)
    loader = ImageLoader(source, size, spec=spec, seed=c.seed, workers=c.workers)
    return ImagePairs(loader, c.batch_size, c.seed, device)


@torch.no_grad()
def prepare(model: MeCoQ, pairs: Pairs, codebook_init: str) -> None:
    """What is measured on the data once, before training: the features' mean and scale, codewords from embeddings."""
    if not isinstance(model.standardize, Standardize) and codebook_init == "random":
        return
    model.eval()
    drawn: list[torch.Tensor] = []
    for x in pairs.examples():
        drawn.append(model.features(x))
        if sum(map(len, drawn)) >= PREPARE_ROWS:
            break
    features = torch.cat(drawn)  # (n, F)
    if not len(features):
        raise ValueError(NO_IMAGE)
    if not features.isfinite().all():
        raise ValueError("the backbone's features hold NaN or infinity: check its weights, or try --no-view-cache")
    if isinstance(model.standardize, Standardize):
        model.standardize.fit(features)
    if codebook_init == "data":
        q = model.quantizer
        segments = q.segments(model.embed(features))  # (n, M, d)
        rows = torch.arange(q.K) % len(segments)
        noise = 0.01 * torch.randn(q.K, q.M, q.d, device=segments.device)  # tells apart codewords of the same row
        q.codebooks.copy_((segments[rows] + noise).transpose(0, 1))
        q.renormalize_()
