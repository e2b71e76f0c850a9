"""What precedes the first training step: data checked against settings, its pairs, what is measured on it once."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mecoq_faiss.backbone.view_cache import cached_view_features
from mecoq_faiss.config import DEFAULT_BATCH, ModelConfig, TrainConfig
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import FeatureSource, ImageSource, Source
from mecoq_faiss.data.views import view_spec
from mecoq_faiss.model import MeCoQ, Standardize
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.storage.files import read_small
from mecoq_faiss.training.batch_norm import BatchNorm
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.neighbors import QUERIES, NeighborPairs
from mecoq_faiss.training.num_views import check_budget, default_views, forward_rate, views_in_budget
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import CachedPairs, FeaturePairs, ImagePairs, Pairs
from mecoq_faiss.training.preserve import Preserve, start_preserving
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.targets import given_features, targets_of
from mecoq_faiss.training.trainer import NO_READABLE_IMAGE
from mecoq_faiss.training.validation import check_width

logger = logging.getLogger("mecoq_faiss")
CHOSEN = ("batch_size", "cached_views")  # 0 leaves them to be chosen
MOST_SPLIT = 1 << 28  # bytes; a protocol's split.json names all its images
PREPARE_ROWS = 5000  # examples that the features' mean and scale, and the first codewords, are taken from


def fit_to_source(config: ModelConfig, source: Source) -> ModelConfig:
    """Features need the `features` backbone of their width, images any other."""
    if isinstance(source, ImageSource):
        if config.backbone == "features":
            raise ValueError(f"{source.name} holds images, and backbone 'features' takes features: choose another one")
        return config
    width = source.features.shape[-1]
    if config.feature_dim not in (None, width):
        raise ValueError(f"{source.name} holds features of width {width}, the model takes {config.feature_dim}")
    source.check_finite()
    D, most = config.D, -(-width // config.M) * config.M
    if config.metric != "aqs" and most < D:
        logger.info("D=%d, as wide as the features", most)
        D = most
    return dataclasses.replace(config, backbone="features", weights="none", trainable_layers=0, feature_dim=width, D=D)


def check_queries(queries: Source, source: Source, config: ModelConfig) -> None:
    """ValueError where a sample of queries does not fit the items, or the objective has no use for it."""
    if config.metric == "aqs":
        raise ValueError("a sample of queries is for codes that preserve a metric: add --objective preserve")
    if queries.kind != source.kind:
        raise ValueError(f"{queries.name} holds {queries.kind}, {source.name} {source.kind}: give queries of that kind")
    check_width(queries, source)


def default_objective(source: Source, model: ModelConfig | None = None) -> str:
    """`preserve` where the model says so, or without one where vectors without views are given; else `both`."""
    if model is not None:
        return "preserve" if model.metric != "aqs" else "both"
    return "preserve" if isinstance(source, FeatureSource) and source.features.ndim == 2 else "both"


def check_enough(items: Any, config: TrainConfig) -> None:
    """ValueError where the items do not fill a batch."""
    needed = batch_size(len(items), config)
    if len(items) < needed:
        mend = "give more images or a smaller --batch-size" if config.batch_size else "give more images"
        raise ValueError(f"{len(items)} readable images are fewer than one batch of {needed}: {mend}")


def batch_size(images: int, config: TrainConfig, most: int = DEFAULT_BATCH) -> int:
    """What is set, or `most`, or of fewer images the half of them."""
    return config.batch_size or (most if images >= most else max(2, images // 2))


def check_same_data(split_file: Path, source: Source, queries: Source | None = None) -> None:
    """ValueError where a run was started on other data than `source`, or with another sample of queries."""
    try:
        split = json.loads(read_small(split_file, MOST_SPLIT))
        fingerprint, name = split["fingerprint"], " ".join(str(split["source"]).split())[:100]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{split_file} is missing or damaged ({error}): train anew") from error
    if split.get("queries_sample") != (queries.fingerprint if queries else None):
        raise ValueError(f"{split_file.parent} was trained with another sample of queries: resume with the same one")
    if fingerprint != source.fingerprint:
        raise ValueError(f"{split_file.parent} was trained on other data ({name}): resume with the same --data")


def describe_data(source: Source, queries: Source | None = None) -> str:
    """What a run is trained on, as JSON; a protocol's chosen images are named."""
    description: dict[str, Any] = {
        "source": source.name,
        "items": len(source),
        "fingerprint": source.fingerprint,
        "protocol": source.protocol,
    }
    if queries is not None:
        description["queries_sample"] = queries.fingerprint
    if source.protocol:
        description["paths"] = list(source.paths)
    return json.dumps(description, indent=2) + "\n"


def make_pairs(
    source: Source,
    model: MeCoQ,
    c: TrainConfig,
    device: str,
    budget: float | None = None,
    queries: Source | None = None,
    ranks: Ranks = ALONE,
) -> Pairs:
    """The batches of two views that the source, the backbone and the settings ask for.

    `budget`, in seconds, chooses the number of cached views where the settings leave it open; ValueError where there
    is none to choose. The first rank chooses.
    """
    check_budget(budget)
    cached = isinstance(source, ImageSource) and c.view_cache and model.backbone.frozen and not model.preserves
    if budget is not None and not cached:
        raise ValueError(
            "a budget chooses the number of cached views, and this training has none (features, a metric to preserve, "
            "layers that learn, or view_cache=false): leave --budget out"
        )
    if model.preserves:
        features, _ = given_features(source, model, c.workers, device, ranks)
        sample = None if queries is None else given_features(queries, model, c.workers, device, ranks)[0]
        trained_on = features if sample is None else sample
        batch = batch_size(len(trained_on), c, QUERIES)
        return NeighborPairs(features, model.config.metric, batch, c.seed, device, sample, ranks)
    if isinstance(source, FeatureSource):
        batch = batch_size(len(source), c)
        if source.features.ndim == 3 and source.features.shape[1] >= 2:
            return CachedPairs(source.features, batch, c.seed, device)
        return FeaturePairs(source.features, c.feature_dropout, batch, c.seed, device)
    size = model.config.image_size
    spec = view_spec(c)
    if cached:
        bf16, num_views = c.precision == "bf16", c.cached_views
        if not num_views and budget is not None:
            rate = ranks.size * forward_rate(model.backbone, size, device, bf16)
            num_views = views_in_budget(budget, len(source), rate)
        num_views = num_views or default_views(len(source), model.backbone, size, device)
        features, rows = cached_view_features(
            source, model.backbone, size=size, spec=spec, num_views=int(ranks.told(b"%d" % num_views)),
            seed=c.seed, workers=c.workers, device=device, bf16=bf16, ranks=ranks,
        )  # fmt: skip
        if len(rows) < len(source) and ranks.first:
            logger.warning("%d of %d images cannot be read", len(source) - len(rows), len(source))
        return CachedPairs(features, batch_size(len(rows), c), c.seed, device, rows)
    loader = ImageLoader(source, size, spec=spec, seed=c.seed, workers=c.workers)
    return ImagePairs(loader, batch_size(len(source), c), c.seed, device)


def make_objective(
    source: Source, model: MeCoQ, c: TrainConfig, device: str, ranks: Ranks = ALONE, pairs: Pairs | None = None
) -> Objective:
    """What the model is to learn: a metric to preserve, or to contrast images, with targets where they are wanted.

    Cached `pairs` say which images can be read.
    """
    if model.preserves:
        return Preserve(model, c, ranks)
    readable = pairs.source_rows if isinstance(pairs, CachedPairs) else None
    targets = targets_of(source, model, c, device, readable, ranks) if c.preserve_weight else None
    return Contrast(model, c, targets, ranks)


def check_for_ranks(model: MeCoQ, ranks: Ranks) -> None:
    """ValueError where several ranks would not learn what one with the whole batch does."""
    if ranks.size == 1:
        return
    model.train()
    learning = [module for module in model.modules() if module.training]
    if model.backbone.micro_batch and any(isinstance(module, BatchNorm) for module in learning):
        raise ValueError("micro_batch and layers that learn with batch norm do not go together on several ranks: use 0")
    names = {type(module).__name__ for module in learning if _draws(module)}
    if names:
        raise ValueError(
            f"{min(names)} in the layers that learn draws otherwise for a share of a batch than for the whole: train "
            "fewer --trainable-layers, or without torchrun"
        )


def _draws(module: nn.Module) -> bool:
    """Whether what it makes of an image depends on a random draw."""
    draws = getattr(module, "p", 0) or getattr(module, "drop_prob", 0)
    random = isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in (
        "DropPath",
        "StochasticDepth",
    )
    return random and bool(draws)


def chosen(c: TrainConfig, source: Source, pairs: Pairs) -> TrainConfig:
    """The settings with the numbers that `make_pairs` chose in the place of 0."""
    usual = QUERIES if isinstance(pairs, NeighborPairs) else DEFAULT_BATCH
    if not c.batch_size and pairs.batch_size != usual:
        logger.info("batch size %d, half of the images; --batch-size changes it", pairs.batch_size)
    views = c.cached_views
    if isinstance(source, ImageSource) and isinstance(pairs, CachedPairs):
        views = pairs.features.shape[1]
    return dataclasses.replace(c, batch_size=pairs.batch_size, cached_views=views)


def settings_of(
    run: RunFolder,
    source: Source,
    model_config: ModelConfig | None,
    train_config: TrainConfig | None,
) -> tuple[ModelConfig, TrainConfig]:
    """What a run was started with; ValueError where settings given now are others.

    No setting can change, as the rates fall towards the last epoch, and the same bytes must come of it. Only `workers`,
    of which no byte depends, is taken as given. A number left to be chosen is the one that was.
    """
    model, train = run.read_config()
    given: dict[str, Any] = dataclasses.asdict(fit_to_source(model_config, source)) if model_config else {}
    given |= dataclasses.asdict(train_config) if train_config else {}
    workers = given.pop("workers", train.workers)
    started = dataclasses.asdict(model) | dataclasses.asdict(train)
    for name, value in given.items():
        if value != started[name] and not (name in CHOSEN and value == 0):
            raise ValueError(
                f"{name}={value} contradicts {run.path}, which was started with {name}={started[name]} and can only go "
                f"on with that: leave {name} out, or train anew into another --out"
            )
    return model, dataclasses.replace(train, workers=workers)


@torch.no_grad()
def prepare(model: MeCoQ, pairs: Pairs, codebook_init: str, seed: int = 0) -> None:
    """What is measured on the data once, before training: the features' mean and scale, codewords from embeddings.

    Of a model that preserves a metric the projection and the codewords too.
    """
    model.eval()
    if isinstance(pairs, NeighborPairs):
        start_preserving(model, pairs, seed)
        return
    if not isinstance(model.standardize, Standardize) and codebook_init == "random":
        return
    drawn: list[torch.Tensor] = []
    for x in pairs.examples():
        drawn.append(model.features(x))
        if sum(map(len, drawn)) >= PREPARE_ROWS:
            break
    features = torch.cat(drawn)  # (n, F)
    if not len(features):
        raise ValueError(NO_READABLE_IMAGE)
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
