"""The whole training job: data -> run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.sources import Source, as_source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.ranks import RankLost, joined
from mecoq_faiss.runtime.ranks import is_first_rank as is_first_rank
from mecoq_faiss.storage.files import check_writable_parent
from mecoq_faiss.training.fit import check_out, fit_run
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.start import default_objective
from mecoq_faiss.training.trainer import Interrupted


def objective_of(data: str | Path | Source) -> str:
    """The default objective of training data, of `presets.OBJECTIVES`."""
    return default_objective(as_source(data, "train"))


def train(
    data: str | Path | Source,
    out: str | Path,
    model_config: ModelConfig | None = None,
    train_config: TrainConfig | None = None,
    *,
    resume: bool = False,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    budget: float | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    validation: str | Path | Source | None = None,
    queries_sample: str | Path | Source | None = None,
) -> MeCoQ:
    """Train MeCoQ on unlabelled images or features and write a run folder.

    Started on several ranks (torchrun), it learns the same on all of them, to rounding: each takes a share of every
    batch, and all read data and `out` in the same places. The first rank's arguments count.

    Args:
        data: a source, or what names one (see `data.open_source`); its training split is used.
        out: the run folder. Refused where it exists, unless `resume`.
        model_config: the model's settings; where None the defaults, which for the protocol `digits` are small (see
            `presets.DIGITS`).
        train_config: the training's, likewise. A resumed run goes on with the settings it was started with, and the
            numbers that were chosen: give None, or else equal ones but for `workers`.
        resume: continue what is in `out`, or start where there is nothing; ends in the same bytes.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.
        tensorboard: also write TensorBoard events into `out`/tensorboard.
        budget: seconds to make the view cache in: the number of cached views follows from the measured rate, where
            `train_config.cached_views` is 0.
        callback: a `Callable[[dict[str, Any]], None]`, called with each record after it is written to
            `out`/metrics.jsonl: the steps' (`epoch`, `step`, `loss`, ...; every 20 steps, and at an epoch's end) and
            the epochs' (`epoch`, `codeword_usage`, ...). It changes no byte of the result. An exception in it ends
            the training; `resume` goes on from the last place that was saved, from which its records come again.
        validation: held-out items, a source of the same kind as `data` or what names one (of a protocol the `queries`
            unless it names a split), which are never trained on; at least 20, and of more than 2,000 a seeded choice.
            After every max(1, epochs // 10)-th epoch and the last, the epoch's record has figures of them, each item
            a query against all others by their codes: with labels `validation_map` (MAP@1000, or of all) and
            `validation_precision_1`; without, `validation_recall_10`, the share of its 10 nearest by the cosine of
            centred backbone features among its 10 best. They choose nothing, and change no byte of the result.
        queries_sample: for codes that preserve a metric, features of queries that are not distributed as the items are
            (texts of CLIP, where the items are its images): a source of the same kind and width. The codes learn to
            find these queries' nearest items. They are encoded as the items are.

    Returns:
        The trained model, in eval mode. torch's global random state is left as it was.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line; settings that contradict the run's.
        TrainingError: the loss or a gradient stopped being finite.
        Interrupted: SIGINT or SIGTERM came; the place is saved.
        RuntimeError: another rank has ended; the last checkpoint is kept.

    Example:
        >>> from mecoq_faiss import ModelConfig, TrainConfig, train
        >>> small = ModelConfig(backbone="pixels", weights="none", image_size=8, D=16)
        >>> model = train("photos", "run-photos", small, TrainConfig(epochs=1))
    """
    with joined(device) as (ranks, device):
        if not ranks.first:
            ranks.wait()  # until the first, which says what is wrong with the data, has looked at it
            given = None if queries_sample is None else as_source(queries_sample, "queries")
            return fit_run(as_source(data, "train"), out, device=device, queries_sample=given, ranks=ranks)
        run = RunFolder(out)  # what is wrong with it is said before the data is looked at
        check_out(run, resume)
        check_writable_parent(run.path)
        source = as_source(data, "train")
        if validation is not None:
            validation = as_source(validation, "queries")
        if queries_sample is not None:
            queries_sample = as_source(queries_sample, "queries")
        return fit_run(
            source, out, model_config, train_config, resume=resume, device=device, tensorboard=tensorboard,
            budget=budget, callback=callback, validation=validation, queries_sample=queries_sample, ranks=ranks,
        )  # fmt: skip


def train_along(
    data: str | Path | Source,
    out: str | Path,
    *,
    device: str | torch.device = "auto",
    queries_sample: str | Path | Source | None = None,
) -> bool:
    """`train` on a rank that is not the first; False where that has stopped, and says why."""
    try:
        train(data, out, device=device, queries_sample=queries_sample)
    except (Interrupted, RankLost):
        return False
    return True


def settings_of_run(out: str | Path) -> dict[str, Any]:
    """The settings that the run in `out` was started with, flat; none where no run was started there."""
    run = RunFolder(out)
    settings: dict[str, Any] = {}
    for part in run.read_config() if run.is_started else ():
        settings |= asdict(part)
    return settings
