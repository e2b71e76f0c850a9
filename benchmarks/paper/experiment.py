"""Train the model on cached view features in memory, as `mecoq_faiss.train` does, and judge it by search."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper.data import Data
from mecoq_faiss.comparison.contenders import learned_contender
from mecoq_faiss.config import DEFAULT_BATCH, TrainConfig, make_configs
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.evaluation import evaluate_search
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.presets import PRESETS, settings_for
from mecoq_faiss.training.codebooks import finish_codebooks
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import CachedPairs, Pairs
from mecoq_faiss.training.smoothing import smoothed_features
from mecoq_faiss.training.start import batch_size, make_objective, make_pairs, prepare
from mecoq_faiss.training.targets import Targets
from mecoq_faiss.training.trainer import StopSignal, Trainer

Settings = dict[str, Any]
CURVE_POINTS = 60
PRECISION_AT = (1, 10, 100)


def default_settings(bits: int, nbits: int = 8, **changes: Any) -> Settings:
    """The default recipe at `bits` bits, every setting spelt out."""
    return _complete(settings_for("default", None, {"bits": bits, "nbits": nbits, **changes}))


def paper_settings(data: Data, bits: int, *, release: bool = False, **changes: Any) -> Settings:
    """The paper's settings (or its release's) of the protocol; of CIFAR-10 (II) for one that it does not have."""
    name = data.name if f"{data.name}-{bits}" in PRESETS else "cifar10-ii"
    return _complete(settings_for(f"release-{name}-{bits}" if release else f"{name}-{bits}") | changes)


def _complete(settings: Settings) -> Settings:
    """With the defaults of today, so that a result says what it was made with; for a head on ready features.

    Every system learns from cached views here, also with the paper's settings, which draw fresh ones.
    """
    here = {"backbone": "features", "weights": "none", "trainable_layers": 0, "view_cache": True}
    model, train = make_configs(**settings | here)
    train = replace(train, batch_size=train.batch_size or DEFAULT_BATCH)
    return json.loads(json.dumps(asdict(model) | asdict(train)))


def fit(
    data: NDArray[Any] | ImageSource,
    settings: Settings,
    on_epoch: Callable[[int, Objective], None] | None = None,
    xt: NDArray[Any] | None = None,
) -> tuple[MeCoQ, list[dict[str, Any]]]:
    """Train on views (n, V, F), or on images with the settings' backbone.

    `xt` (n, F) are the fixed views' features, which the embedding is distilled from; without them, the first views'.
    `on_epoch(epoch, objective)` is called before the first epoch (with 0) and after each, in training mode.

    Returns:
        The model in eval mode, and a record an epoch: the means of its steps' terms, and the codebooks' figures.
    """
    width = None if isinstance(data, ImageSource) else data.shape[-1]
    model_config, c = make_configs(**settings | {"feature_dim": width})
    torch.manual_seed(c.seed)
    model = MeCoQ(model_config)
    pairs: Pairs
    objective: Objective
    if isinstance(data, ImageSource):
        pairs, objective = make_pairs(data, model, c, "cpu"), make_objective(data, model, c, "cpu")
    else:
        pairs = CachedPairs(data, batch_size(len(data), c), c.seed, "cpu")
        targets = targets_from(data if xt is None else xt, c) if c.preserve_weight else None
        objective = Contrast(model, c, targets)
    prepare(model, pairs, c.codebook_init, c.seed)
    steps: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []

    def record(values: dict[str, Any]) -> None:
        if "step" in values:
            steps.append(values)
            return
        terms = ("loss", "contrastive", "diversity", "quantization_error")
        epochs.append(values | {name: float(np.mean([step[name] for step in steps])) for name in terms})
        steps.clear()

    run_epochs(objective, pairs, c, record, on_epoch)
    finish_codebooks(model, pairs, c)
    return model.eval(), epochs


def targets_from(features: NDArray[Any], c: TrainConfig) -> Targets:
    """What an embedding is distilled from: features (n, F), or of (n, V, F) the first views, smoothed as in `train`."""
    rows = np.arange(len(features))
    if c.preserve_neighbors:
        x = np.ascontiguousarray(features if features.ndim == 2 else features[:, 0])
        key = {"data": hashlib.sha256(x.tobytes()).hexdigest()}
        features, rows = smoothed_features(x, rows, c.preserve_neighbors, key)
    return Targets(features, rows, "cpu")


def run_epochs(
    objective: Objective,
    pairs: Pairs,
    c: TrainConfig,
    record: Callable[[dict[str, Any]], None] = lambda values: None,
    on_epoch: Callable[[int, Objective], None] | None = None,
) -> None:
    """All epochs of a prepared objective, nothing saved; `record` and `on_epoch` as in `Trainer` and in `fit`."""
    trainer = Trainer(
        objective, objective.optimizer(), pairs, epochs=c.epochs, warmup_epochs=c.warmup_epochs,
        final_lr_scale=c.final_lr_scale, seed=c.seed, after_step=objective.after_step,
        end_epoch=objective.end_epoch, record=record, save=lambda epoch, step: None,
    )  # fmt: skip
    objective.train()
    if on_epoch:
        on_epoch(0, objective)
    for epoch in range(1, c.epochs + 1):
        trainer.run_epoch(epoch, 0, StopSignal())
        if on_epoch:
            on_epoch(epoch, objective)


def figures(index: Any, xq: NDArray[Any], data: Data) -> dict[str, Any]:
    """MAP, precision at PRECISION_AT, and the curves of a filled index, thinned out evenly in the rank's logarithm."""
    found = evaluate_search(index, xq, data.yq, data.yb, data.k)
    ranks = np.unique(np.geomspace(1, len(found["precision"]), CURVE_POINTS).astype(int))
    curves = {name: np.round(found[name][ranks - 1], 6).tolist() for name in ("precision", "recall")}
    at = {str(n): float(found["precision"][n - 1]) for n in PRECISION_AT if n <= len(found["precision"])}
    return {"map": found["map"], "map_all": found["map_all"], "precision_at": at, "ranks": ranks.tolist(), **curves}


def run(data: Data, settings: Settings) -> dict[str, Any]:
    """Train, encode the database, search with all queries: the result of one cell."""
    started = time.monotonic()
    model, epochs = fit(data.views[:, : settings["cached_views"] or None], settings, xt=data.xt)
    seconds = time.monotonic() - started
    contender = learned_contender(model, data.xb)
    last = epochs[-1]
    return {
        **figures(contender.index, contender.queries(data.xq), data),
        "held_out": held_out_map(model, data),
        "codewords": contender.codewords_used,
        "codeword_similarity": last["codeword_similarity"],
        "quantization_error": last["quantization_error"],
        "train_seconds": seconds,
    }


def held_out_map(model: MeCoQ, data: Data, num_queries: int = 1000) -> float:
    """MAP on held-out database images, a seeded part of which plays the queries; the cut-off is scaled down."""
    order = np.random.default_rng(0).permutation(data.held)
    queries, database = np.split(order, [min(num_queries, len(order) // 5)])
    contender = learned_contender(model, data.xb[database])
    k = max(10, round(data.k * len(database) / len(data.xb)))
    xq = contender.queries(data.xb[queries])
    return evaluate_search(contender.index, xq, data.yb[queries], data.yb[database], k)["map"]
