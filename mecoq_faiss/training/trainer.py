"""The training loop: schedule, steps, checks, interruption. It knows nothing of the model inside the objective."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.pairs import Pairs

FLUSH_STEPS = 20  # metrics are brought to the host, checked and written this often; always before a checkpoint
MEND = "train anew with a lower lr, or look for broken features in the data"
NO_READABLE_IMAGE = "no image of the training data can be read: give images that open in a viewer"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change.

    Example:
        >>> from mecoq_faiss import TrainConfig, TrainingError, train
        >>> try:
        ...     model = train("digits", "run-1e30", train_config=TrainConfig(epochs=1, lr=1e30, cached_views=2))
        ... except TrainingError:
        ...     print("a smaller lr")
        a smaller lr
    """


class Interrupted(RuntimeError):
    """Training was asked to stop, and has saved its place.

    Example:
        >>> from mecoq_faiss import Interrupted, TrainConfig, train
        >>> try:
        ...     model = train("features.npy", "run-features", train_config=TrainConfig(epochs=1), resume=True)
        ... except Interrupted:
        ...     print("the same call goes on from there")
    """


class Step(Protocol):
    """One step's loss (scalar) and its terms by name, of a pair of views."""

    def __call__(self, pair: Any, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: D102
        ...


class StopSignal:
    """While in use, SIGINT and SIGTERM ask for a stop instead of ending the process; a second one ends it.

    Python handles signals in the main thread only: in another one this never asks for a stop.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle) or signal.SIG_DFL
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()


def schedule(step: int, *, warmup_steps: int, total_steps: int, final_scale: float) -> float:
    """The factor on every group's own base rate at a step (from 0): linear warm-up, then cosine to `final_scale`."""
    if step < warmup_steps:
        return final_scale + (1 - final_scale) * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final_scale + (1 - final_scale) * 0.5 * (1 + math.cos(math.pi * share))


class Trainer:
    """Runs epochs of `pairs` through `step` and an optimizer.

    Everything random in a step follows from (seed, epoch, step), so that continuing from a saved place gives the same
    bytes as never having stopped.

    Args:
        step: (pair, epoch) -> loss and detached scalar terms.
        optimizer: its groups' rates at construction are their base rates.
        pairs: gives the batches of an epoch.
        epochs, warmup_epochs, final_lr_scale, seed: as in `TrainConfig`.
        after_step: called after each optimizer step.
        end_epoch: called after each epoch, returns figures for its record.
        record: receives each record of metrics.
        save: called with (epoch, step), the place from which training continues.
        autocast: run the step in bfloat16 where the device can.
        ranks: that train together, each on its share of every batch.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        pairs: Pairs,
        *,
        epochs: int,
        warmup_epochs: int,
        final_lr_scale: float,
        seed: int,
        after_step: Callable[[], None],
        end_epoch: Callable[[], dict[str, float]],
        record: Callable[[dict[str, Any]], None],
        save: Callable[[int, int], None],
        autocast: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.step, self.optimizer, self.pairs = step, optimizer, pairs
        self.epochs, self.warmup_epochs, self.final_lr_scale = epochs, warmup_epochs, final_lr_scale
        self.seed, self.autocast, self.ranks = seed, autocast, ranks
        self.after_step, self.end_epoch, self.record, self.save = after_step, end_epoch, record, save
        self._stopping: int | None = None  # the signal, once all ranks know of it
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run_epoch(self, epoch: int, start_step: int, stop: StopSignal) -> None:
        """Train epoch `epoch` (from 1) from step `start_step` on; saves at its end, or where a stop was asked for."""
        started, images = time.monotonic(), 0
        pending: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
        for number, pair in enumerate(self.pairs.batches(epoch, start_step, self.ranks), start=start_step):
            if pair.total:  # a batch may hold unreadable images only
                terms = self._one_step(pair, epoch, number, stop)
                pending.append(({"epoch": epoch, "step": number + 1, **self._rates()}, terms))
            images += pair.total
            stopping = stop.received if self.ranks.size == 1 else self._stopping
            if len(pending) >= FLUSH_STEPS or stopping:
                self._flush(pending)
            if stopping:
                self.save(epoch, number + 1)
                raise Interrupted(
                    f"stopped by {signal.Signals(stopping).name} in epoch {epoch}, step {number + 1}: "
                    "run the same command with --resume to continue"
                )
        self._flush(pending)
        if not images and start_step < self.pairs.steps_per_epoch:
            raise ValueError(NO_READABLE_IMAGE)
        if not all(torch.stack(p.aminmax()).isfinite().all() for p in self._parameters):
            raise TrainingError(f"a weight became infinite or NaN in epoch {epoch}: {MEND}")
        rate = images / max(1e-9, time.monotonic() - started)
        self.record({"epoch": epoch, **self.end_epoch(), "images_per_second": rate})
        self.save(epoch + 1, 0)

    def _one_step(self, pair: Any, epoch: int, number: int, stop: StopSignal) -> dict[str, Tensor]:
        torch.manual_seed(((self.seed * 1_000_003 + epoch) * 1_000_003 + number) % 2**63)  # dropout, if there is any
        steps = self.pairs.steps_per_epoch
        factor = schedule(
            (epoch - 1) * steps + number,
            warmup_steps=self.warmup_epochs * steps,
            total_steps=self.epochs * steps,
            final_scale=self.final_lr_scale,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        device = pair.view1.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            loss, terms = self.step(pair, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._sum_over_ranks(terms, stop)
        terms["gradient_norm"] = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self.optimizer.step()
        self.after_step()
        return terms

    def _sum_over_ranks(self, terms: dict[str, Tensor], stop: StopSignal) -> None:
        """Gradients and terms become those of the whole batch; a rank that is asked to stop asks all."""
        if self.ranks.size == 1:
            return
        asked = torch.tensor(float(stop.received is not None), device=terms["loss"].device)
        self.ranks.sum_([*(p.grad for p in self._parameters if p.grad is not None), *terms.values(), asked])
        self._stopping = (stop.received or signal.SIGTERM) if asked else None

    def _rates(self) -> dict[str, float]:
        return {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}

    def _flush(self, pending: list[tuple[dict[str, Any], dict[str, Tensor]]]) -> None:
        for place, terms in pending:
            values = {name: value.item() for name, value in terms.items()}
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise TrainingError(
                    f"{bad[0]} became {values[bad[0]]} in epoch {place['epoch']}, step {place['step']}: {MEND}"
                )
            self.record({**place, **values})
        pending.clear()
