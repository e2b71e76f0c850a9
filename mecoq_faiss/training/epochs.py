"""The epochs of a run in its folder: trained from where it stands, logged, and saved where they stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.runtime.devices import use_bf16
from mecoq_faiss.runtime.progress import Estimate, progress
from mecoq_faiss.runtime.ranks import Ranks
from mecoq_faiss.training.codebooks import finish_codebooks
from mecoq_faiss.training.last_state import load_state
from mecoq_faiss.training.log import recorder
from mecoq_faiss.training.model_file import save_model
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import ImagePairs, Pairs
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.trainer import StopSignal, Trainer
from mecoq_faiss.training.validation import Validation

logger = logging.getLogger("mecoq_faiss")
Callback = Callable[[dict[str, Any]], None]


def run_epochs(
    run: RunFolder,
    objective: Objective,
    pairs: Pairs,
    c: TrainConfig,
    *,
    ranks: Ranks,
    device: str,
    tensorboard: bool = False,
    callback: Callback | None = None,
    held_out: Validation | None = None,
) -> None:
    """Train the objective to the end of `c.epochs`; the first rank writes the run folder, the others wait for it."""
    optimizer = objective.optimizer()

    def save(epoch: int, step: int) -> None:
        if step:  # at an epoch's end there are none
            objective.collect_counts()
        if not ranks.first:
            return
        if epoch > c.epochs:
            save_model(objective.model, run.model_file)
        run.save_state(
            {
                "epoch": epoch,
                "step": step,
                "objective": objective.training_state(),
                "optimizer": optimizer.state_dict(),
            }
        )

    if not ranks.first:
        ranks.wait()  # until the first has begun the run
    epoch, step = 1, 0
    if run.state_file.exists():
        epoch, step = load_state(run, objective, optimizer, pairs.steps_per_epoch, not isinstance(pairs, ImagePairs))
        logger.info("resuming at epoch %d, step %d", epoch, step + 1)
    else:
        save(epoch, step)
    write, close = (lambda values: None), (lambda: None)
    if ranks.first:
        run.rewind_metrics(epoch, step)
        write, close = recorder(run, pairs.steps_per_epoch, epoch, step, tensorboard)
        ranks.wait()  # the others read what is there
    else:
        objective.counts.zero_()  # the first rank's
    latest: dict[str, Any] = {}

    def record(values: dict[str, Any]) -> None:
        write(values)
        latest.update(values)
        if callback:
            callback(dict(values))  # its own, to alter as it likes

    def note() -> str:
        if "loss" not in latest:
            return ""
        words = [f"loss {latest['loss']:.3f}", f"codewords {latest['codeword_usage']:.0%}"]
        shown = {"validation_map": "validation MAP", "validation_recall_10": "validation recall@10"}
        words += [f"{name} {latest[key]:.1%}" for key, name in shown.items() if key in latest]
        return ", ".join(words)

    views = 2 * pairs.batch_size  # a step
    steps = (c.epochs - epoch + 1) * pairs.steps_per_epoch - step
    what = f"training: {views * steps:,} views through the network"
    estimate = Estimate(
        views * steps, what, "fewer --epochs take less, and so does a frozen backbone with a view cache"
    )

    numbers = iter(range(epoch, c.epochs + 1))

    def end_epoch() -> dict[str, float]:
        number = next(numbers)
        if number == c.epochs and ranks.first:
            finish_codebooks(objective.model, pairs, c)
        return objective.end_epoch() | (held_out.after_epoch(number) if held_out else {})

    def after_step() -> None:
        objective.after_step()
        if isinstance(pairs, ImagePairs):
            estimate.done(views)

    trainer = Trainer(
        objective,
        optimizer,
        pairs,
        epochs=c.epochs,
        warmup_epochs=c.warmup_epochs,
        final_lr_scale=c.final_lr_scale,
        seed=c.seed,
        after_step=after_step,
        end_epoch=end_epoch,
        record=record,
        save=save,
        autocast=use_bf16(c.precision, device),
        ranks=ranks,
    )
    objective.train()
    try:
        with StopSignal() as stop:
            left: Iterable[int] = range(epoch, c.epochs + 1)
            if ranks.first:
                left = progress(left, total=c.epochs, initial=epoch - 1, label="training", unit="epochs", note=note)
            for e in left:
                trainer.run_epoch(e, step if e == epoch else 0, stop)
        ranks.wait()  # until the first has written the trained model
    finally:
        close()
