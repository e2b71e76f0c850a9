"""Training steps without files or data, for the speed benchmarks; and what a learning backbone's steps cost."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.speed.measure import Row, in_turn, peak_of
from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
from mecoq_faiss.runtime.devices import use_bf16
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.pairs import Pair, Pairs
from mecoq_faiss.training.targets import Targets
from mecoq_faiss.training.trainer import StopSignal, Trainer

FINE_TUNING: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "bf16": {"precision": "bf16"},
    "compiled": {"precision": "float32", "compile": True},
    "compiled, bf16": {"precision": "bf16", "compile": True},
    "micro-batches": {"precision": "float32", "micro_batch": 32},
}


class SamePair(Pairs):
    """One pair of views again and again."""

    def __init__(self, pair: Pair, steps: int) -> None:
        super().__init__(np.arange(len(pair.view1) * steps), len(pair.view1), 0, str(pair.view1.device))
        self.pair = pair

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        own, n = ranks.share(self.pair.total), self.pair.total
        rows = np.arange(n)
        shared = Pair(self.pair.view1[own], self.pair.view2[own], rows, ranks.counts(n))
        return (shared for _ in range(self.steps_per_epoch))


def make_trainer(
    model: MeCoQ, pairs: Pairs, config: TrainConfig, ranks: Ranks = ALONE, targets: Targets | None = None
) -> Trainer:
    """As `train` makes it, without files."""
    objective = Contrast(model, config, targets, ranks).to(pairs.device).train()
    return Trainer(
        objective,
        objective.optimizer(),
        pairs,
        epochs=1_000_000,
        warmup_epochs=0,
        final_lr_scale=1.0,
        seed=0,
        after_step=objective.after_step,
        end_epoch=objective.end_epoch,
        record=lambda values: None,
        save=lambda epoch, step: None,
        autocast=use_bf16(config.precision, pairs.device),
        ranks=ranks,
    )


def run(trainer: Trainer) -> None:
    trainer.run_epoch(1, 0, StopSignal())


def fine_tuning_costs(a: argparse.Namespace) -> list[Row]:
    """Images a second and memory of steps that train the whole backbone, with and without each measure.

    Memory is the GPU's peak, or what the process grew by at most in one step (Linux).
    """
    generator = torch.Generator().manual_seed(0)
    shape = (a.tuning_batch, 3, a.image_size, a.image_size)
    views = [torch.rand(shape, generator=generator).to(a.device) for _ in range(2)]
    pair = Pair(views[0], views[1])
    rows: list[Row] = []
    trainers: dict[str, Trainer] = {}
    for name in a.fine_tuning:
        config = TrainConfig(batch_size=a.tuning_batch, memory_start_epoch=1, preserve_weight=0.0, **FINE_TUNING[name])
        torch.manual_seed(0)
        model = MeCoQ(ModelConfig(a.backbone, "none", trainable_layers=-1, image_size=a.image_size)).to(a.device)
        model.backbone.micro_batch = config.micro_batch
        if config.compile:
            model.backbone.compile_net()
        trainers[name] = make_trainer(model, SamePair(pair, 1), config)
        started = time.perf_counter()
        run(trainers[name])  # compiles; allocates what is allocated once
        rows.append({"steps": name, "first_s": time.perf_counter() - started})
        rows[-1]["peak_MB"] = _peak(trainers[name]) / 1e6
    seconds = in_turn({name: lambda t=t: _finished(t) for name, t in trainers.items()}, a.repeats)  # type: ignore[misc]
    for row in rows:
        step = seconds[row["steps"]]
        row |= {"images_a_second": a.tuning_batch / step, "rate / first": seconds[a.fine_tuning[0]] / step}
    return rows


def _finished(trainer: Trainer) -> None:
    run(trainer)
    if trainer.pairs.device != "cpu":
        torch.cuda.synchronize()


def _peak(trainer: Trainer) -> int:
    if trainer.pairs.device == "cpu":
        return peak_of(lambda: run(trainer))[1]
    torch.cuda.reset_peak_memory_stats()
    _finished(trainer)
    return torch.cuda.max_memory_allocated()
