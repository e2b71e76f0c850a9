"""steps_of(): the gradients, terms and memory of some steps of training, on however many ranks there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.ranks import Ranks, joined
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.neighbors import NeighborPairs, Neighbors
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import CachedPairs, Pair, Pairs
from mecoq_faiss.training.preserve import Preserve, start_preserving
from mecoq_faiss.training.targets import Targets
from mecoq_faiss.training.trainer import StopSignal, Trainer

MODEL = ModelConfig(backbone="features", weights="none", feature_dim=10, hidden=12, D=8, M=2, nbits=4)
PRESERVING = ModelConfig(
    "features", "none", feature_dim=10, D=10, M=2, nbits=4, projection="linear", codes="additive", metric="cosine"
)
SETTINGS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "asymmetric": {"asymmetric_share": 0.5},
    "only embeddings": {"asymmetric_share": 1.0},
    "distilled": {"preserve_weight": 0.5},
    "entropy": {"entropy_weight": 0.3},
    "plain contrastive": {"positive_prior": 0.0},
    "no memory": {"memory_size": 0},
    "memory never full": {"memory_size": 40},
    "memory of features": {"memory_kind": "feature"},
    "memory of hard codes": {"memory_kind": "hard"},
    "all": {"asymmetric_share": 0.5, "preserve_weight": 0.5, "entropy_weight": 0.3, "memory_size": 40},
    **{f"preserving {metric}": {} for metric in ("cosine", "ip", "l2")},
}
PLAIN: dict[str, Any] = {
    "batch_size": 11,
    "memory_size": 7,
    "memory_start_epoch": 1,
    "asymmetric_share": 0.0,
    "preserve_weight": 0.0,
}
LAST = (3, 2)  # images in the last batch


def each_case() -> dict[tuple[str, torch.dtype, int], dict[str, np.ndarray]]:
    """`steps_of` every settings, in both precisions, with last batches of which four ranks have none or one."""
    cases = [(name, dtype, last) for name in SETTINGS for dtype in (torch.float32, torch.float64) for last in LAST]
    return {case: steps_of(*case) for case in cases}


def steps_of(name: str, dtype: torch.dtype, last: int) -> dict[str, np.ndarray]:
    """An epoch of three steps on 11, 11 and `last` images: arrays by name."""
    c = TrainConfig(**(PLAIN | SETTINGS[name]))
    features = np.random.default_rng(0).normal(size=(22 + last, 3, 10)).astype(np.float32)
    found: dict[str, np.ndarray] = {}
    with joined("cpu") as (ranks, _):
        torch.manual_seed(0)
        objective, pairs = _objective(name, features, c, ranks)
        objective.to(dtype).train()
        if isinstance(objective, Contrast) and objective.targets is not None:
            objective.targets.standardize.to(dtype)

        def step(pair: Pair | Neighbors, epoch: int) -> Any:
            return objective(pair._replace(view1=pair.view1.to(dtype), view2=pair.view2.to(dtype)), epoch)

        def after_step() -> None:
            number = sum("weight" in key for key in found)
            gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
            found[f"weights {number}"] = torch.cat([g.flatten() for g in gradients.values()]).numpy()
            objective.after_step()

        def record(values: dict[str, Any]) -> None:
            values.pop("images_per_second", None)
            found[f"record {len(found)}"] = np.array(list(values.values()))

        trainer = Trainer(
            step, torch.optim.SGD(objective.parameter_groups(), lr=0.05), pairs,
            epochs=2, warmup_epochs=0, final_lr_scale=1.0, seed=0, after_step=after_step,
            end_epoch=objective.end_epoch, record=record, save=lambda epoch, step: None, ranks=ranks,
        )  # fmt: skip
        trainer.run_epoch(1, 0, StopSignal())
        if isinstance(objective, Contrast) and objective.memory is not None:
            found["memory"] = objective.memory.slots.numpy()
            found["pushed"] = objective.memory.pushed.numpy()
        if not ranks.first:  # the first rank's figures
            found = {name: array for name, array in found.items() if not name.startswith("record")}
    return found


def _objective(name: str, features: np.ndarray, c: TrainConfig, ranks: Ranks) -> tuple[Objective, Pairs]:
    if name.startswith("preserving"):
        model = MeCoQ(replace(PRESERVING, metric=name.split()[1]))
        pairs = NeighborPairs(features, model.config.metric, 11, 0, "cpu", ranks=ranks)
        start_preserving(model, pairs, seed=0)
        return Preserve(model, c, ranks), pairs
    targets = Targets(features, np.arange(len(features)), "cpu")
    objective = Contrast(MeCoQ(MODEL), c, targets, ranks)
    return objective, CachedPairs(features, 11, 0, "cpu")
