"""The loop, with a one-parameter model in place of the real one."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.pairs import Pair, Pairs
from mecoq_faiss.training.trainer import FLUSH_STEPS, Interrupted, StopSignal, Trainer, TrainingError, schedule


class Numbers(Pairs):
    """`steps` batches of 2; those in `empty` hold no image."""

    def __init__(self, steps: int, empty: tuple[int, ...] = ()) -> None:
        super().__init__(np.arange(2 * steps), 2, 0, "cpu")
        self.empty = empty

    def batches(self, epoch: int, start_step: int = 0, ranks: Ranks = ALONE) -> Iterator[Pair]:
        for step in range(start_step, self.steps_per_epoch):
            view = torch.full((0 if step in self.empty else 2, 1), float(step))
            yield Pair(view, view)


class Loop:
    """A trainer whose loss is (weight - step)^2, made NaN at `nan_at`; keeps what it is told."""

    def __init__(self, steps: int = 6, epochs: int = 2, nan_at: int | None = None, **more: Any) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.other = torch.nn.Parameter(torch.zeros(()))
        self.nan_at, self.at_step = nan_at, more.pop("at_step", lambda step: None)
        self.records: list[dict[str, Any]] = []
        self.saved: list[tuple[int, int]] = []
        self.draws: list[float] = []
        groups = [{"name": "a", "params": [self.weight], "lr": 0.1}, {"name": "b", "params": [self.other], "lr": 0.02}]
        self.trainer = Trainer(
            self._step,
            torch.optim.SGD(groups),
            Numbers(steps, more.pop("empty", ())),
            epochs=epochs,
            warmup_epochs=more.pop("warmup_epochs", 1),
            final_lr_scale=0.01,
            seed=more.pop("seed", 0),
            after_step=lambda: None,
            end_epoch=more.pop("end_epoch", lambda: {"usage": 1.0}),
            record=self.records.append,
            save=lambda epoch, step: self.saved.append((epoch, step)),
        )

    def _step(self, pair: Pair, epoch: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        step = int(pair.view1[0, 0])
        self.at_step(step)
        self.draws.append(torch.rand(()).item())
        loss = (self.weight - pair.view1.mean()) ** 2 + self.other
        loss = loss * (math.nan if step == self.nan_at else 1.0)
        return loss, {"loss": loss.detach()}

    def run(self, epoch: int = 1, start: int = 0) -> None:
        with StopSignal() as stop:
            self.trainer.run_epoch(epoch, start, stop)


def test_schedule_by_hand() -> None:
    def at(step: int) -> float:
        return schedule(step, warmup_steps=4, total_steps=12, final_scale=0.1)

    assert [at(s) for s in range(4)] == pytest.approx([0.325, 0.55, 0.775, 1.0])
    assert at(4) == 1.0
    assert at(6) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert at(8) == pytest.approx(0.55)
    assert at(12) == pytest.approx(0.1)
    assert schedule(0, warmup_steps=0, total_steps=1, final_scale=0.1) == 1.0


def test_each_group_keeps_its_own_rate() -> None:
    loop = Loop()
    loop.run(1)
    loop.run(2)
    steps = [r for r in loop.records if "step" in r]
    assert [(r["epoch"], r["step"]) for r in steps] == [(e, s) for e in (1, 2) for s in range(1, 7)]
    for number, record in enumerate(steps):  # the rates of that very step
        factor = schedule(number, warmup_steps=6, total_steps=12, final_scale=0.01)
        assert (record["lr_a"], record["lr_b"]) == (pytest.approx(0.1 * factor), pytest.approx(0.02 * factor))
    assert loop.saved == [(2, 0), (3, 0)]
    epoch_record = loop.records[6]
    assert epoch_record["epoch"] == 1 and epoch_record["usage"] == 1.0 and epoch_record["images_per_second"] > 0


def test_the_rate_is_that_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured at an epoch's end does not count."""
    clock = [0.0]

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    def end_epoch() -> dict[str, float]:
        pass_time(1000)
        return {}

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    loop = Loop(at_step=lambda step: pass_time(0.5), end_epoch=end_epoch)
    loop.run()
    assert loop.records[-1]["images_per_second"] == pytest.approx(6 * 2 / 3)


def test_the_gradient_norm_is_recorded() -> None:
    loop = Loop(steps=1)
    loop.trainer.pairs = Numbers(4)
    loop.run(1, 3)  # weight 0, target 3: gradients -6 and 1
    assert loop.records[0]["gradient_norm"] == pytest.approx(math.sqrt(37))


def test_continuing_repeats_what_would_have_come() -> None:
    whole, rest = Loop(), Loop()
    whole.run(2)
    rest.run(2, start=3)
    assert rest.draws == whole.draws[3:] and len(set(whole.draws)) == 6


@pytest.mark.parametrize("nan_at", [0, 5, FLUSH_STEPS + 3])
def test_a_loss_that_is_not_finite_stops_before_any_checkpoint(nan_at: int) -> None:
    loop = Loop(steps=2 * FLUSH_STEPS, nan_at=nan_at)
    with pytest.raises(TrainingError, match=rf"loss became nan in epoch 1, step {nan_at + 1}: .*lower lr") as error:
        loop.run()
    assert "\n" not in str(error.value)
    assert loop.saved == [] and [r["step"] for r in loop.records] == list(range(1, nan_at + 1))


def test_a_weight_that_is_not_finite_stops_before_the_checkpoint() -> None:
    loop = Loop(steps=1, warmup_epochs=0)
    loop.other.data.fill_(-3e38)
    loop.trainer.optimizer.param_groups[1]["base_lr"] = 1e38  # finite loss and gradient, then an infinite weight
    with pytest.raises(TrainingError, match="weight became infinite"):
        loop.run()
    assert loop.saved == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_signal_saves_the_place(number: int, at: int) -> None:
    before = signal.getsignal(number)
    loop = Loop(at_step=lambda step: os.kill(os.getpid(), number) if step == at else None)
    with pytest.raises(Interrupted, match=rf"stopped by {signal.Signals(number).name} in epoch 1, step {at + 1}"):
        loop.run()
    assert loop.saved == [(1, at + 1)] and len(loop.records) == at + 1
    assert signal.getsignal(number) is before
    loop.at_step = lambda step: None
    loop.run(1, at + 1)  # even where no step of the epoch is left
    assert loop.saved[-1] == (2, 0) and [r.get("step") for r in loop.records] == [1, 2, 3, 4, 5, 6, None]


def test_a_second_signal_ends_at_once() -> None:
    def twice(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    loop = Loop(at_step=twice)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert loop.saved == []


def test_other_threads_leave_signals_alone() -> None:
    before, loop = signal.getsignal(signal.SIGINT), Loop()
    seen = []
    loop.at_step = lambda step: seen.append(signal.getsignal(signal.SIGINT))
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join()
    assert loop.saved == [(2, 0)] and seen == [before] * 6


def test_batches_without_a_readable_image_are_passed_over() -> None:
    loop = Loop(empty=(0, 3))
    loop.run()
    assert [r.get("step") for r in loop.records] == [2, 3, 5, 6, None]
    with pytest.raises(ValueError, match=r"no image .* can be read"):
        Loop(empty=tuple(range(6))).run()


@pytest.mark.parametrize("seed", [2**31, 20_260_101, 2**64 + 5])
def test_any_seed(seed: int) -> None:
    Loop(seed=seed).run()
