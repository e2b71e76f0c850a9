"""A model fitted to a source, in a run folder: begun, continued, or refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from mecoq_faiss.config import ModelConfig, TrainConfig, make_configs
from mecoq_faiss.config_file import from_json, to_json
from mecoq_faiss.data.sources import ImageSource, Source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.presets import settings_for
from mecoq_faiss.runtime.devices import random_state_kept, resolve_device
from mecoq_faiss.runtime.ranks import ALONE, RankLost, Ranks
from mecoq_faiss.storage.files import check_writable_parent, write_text
from mecoq_faiss.training.batch_norm import share_statistics
from mecoq_faiss.training.epochs import Callback, run_epochs
from mecoq_faiss.training.model_file import load_model, save_model
from mecoq_faiss.training.num_views import most_views
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import Pairs
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.start import (
    check_enough,
    check_for_ranks,
    check_queries,
    check_same_data,
    chosen,
    default_objective,
    describe_data,
    fit_to_source,
    make_objective,
    make_pairs,
    prepare,
    settings_of,
)
from mecoq_faiss.training.trainer import Interrupted, TrainingError
from mecoq_faiss.training.validation import Validation, check_validation

logger = logging.getLogger("mecoq_faiss")


def fit_run(
    source: Source,
    out: str | Path,
    model_config: ModelConfig | None = None,
    train_config: TrainConfig | None = None,
    *,
    resume: bool = False,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    budget: float | None = None,
    callback: Callback | None = None,
    validation: Source | None = None,
    queries_sample: Source | None = None,
    ranks: Ranks = ALONE,
) -> MeCoQ:
    """Train a model on a source into the run folder `out`; arguments, result and errors are those of `train`.

    Settings left out are chosen here and not by the caller: whether the run goes on with its own is known once its
    folder is locked.

    Of several ranks the first does all this and writes. It tells the others the settings; they make features of images
    with it, and read from the folder what the training begins with, as if they continued it.
    """
    run = RunFolder(out)
    if not ranks.first:
        return _join_run(run, _Given(source, str(device), ranks, queries=queries_sample))
    check_out(run, resume)
    check_writable_parent(run.path)
    device = resolve_device(device)
    if validation is not None:
        check_validation(validation, source)
    given = _Given(source, device, ranks, tensorboard, budget, callback, validation, queries_sample)
    with run.opened(), random_state_kept(device):
        return _fit_run(run, given, model_config, train_config, resume and run.is_started)


class _Given(NamedTuple):
    """What a training is given beside its settings; see `train`."""

    source: Source
    device: str
    ranks: Ranks
    tensorboard: bool = False
    budget: float | None = None
    callback: Callback | None = None
    validation: Source | None = None
    queries: Source | None = None


def _join_run(run: RunFolder, given: _Given) -> MeCoQ:
    """What a rank does that is not the first: learn with it, and read its result."""
    said = given.ranks.told()
    with random_state_kept(given.device):
        if said:
            told = json.loads(said)
            if told["data"] != _data_of(given):
                raise ValueError(f"{given.source.name} is not what the first rank trains on: all need the same data")
            model_config, c = from_json(told["settings"], "the first rank's settings")
            assert c is not None
            model = MeCoQ(replace(model_config, weights="none"))
            given.ranks.same_(model.state_dict().values())
            _set_up(model, c)
            pairs, objective, c = _prepared(model, given, c)
            run_epochs(run, objective, pairs, c, ranks=given.ranks, device=given.device)
    return run.load_trained()


def _tell(model: MeCoQ, given: _Given, c: TrainConfig) -> None:
    """All other ranks what `_join_run` is to know of the model and the settings."""
    settings = to_json(model.config, c)
    given.ranks.told(json.dumps({"data": _data_of(given), "settings": settings}).encode())
    given.ranks.same_(model.state_dict().values())


def _data_of(given: _Given) -> list[str]:
    return [source.fingerprint for source in (given.source, given.queries) if source is not None]


def _prepared(
    model: MeCoQ, given: _Given, c: TrainConfig, budget: float | None = None
) -> tuple[Pairs, Objective, TrainConfig]:
    """Pairs, objective, and the settings with the numbers chosen; all ranks make them together."""
    source, device, ranks = given.source, given.device, given.ranks
    pairs = make_pairs(source, model, c, device, budget, given.queries, ranks)
    share_statistics(model, ranks)
    check_enough(pairs.rows, c)
    c = chosen(c, source, pairs)
    return pairs, make_objective(source, model.to(device), c, device, ranks, pairs), c


def _set_up(model: MeCoQ, c: TrainConfig) -> MeCoQ:
    model.backbone.micro_batch = c.micro_batch
    if c.compile:
        model.backbone.compile_net()
    return model


def _fit_run(
    run: RunFolder,
    given: _Given,
    model_config: ModelConfig | None,
    train_config: TrainConfig | None,
    resume: bool,
) -> MeCoQ:
    source, device, queries = given.source, given.device, given.queries
    if resume:
        check_same_data(run.split_file, source, queries)
        model_config, train_config = settings_of(run, source, model_config, train_config)
        if isinstance(source, ImageSource) and not train_config.cached_views:  # of a run that did not record its choice
            train_config = replace(train_config, cached_views=most_views(len(source)))
        if run.next_epoch() > train_config.epochs:
            logger.info("%s is finished already", run.path)
            given.ranks.wait()
            given.ranks.told()
            return run.load_trained()
        model = load_model(model_config, run.model_file)
        run.remove_temporary()
    else:
        if model_config is None or train_config is None:
            protocol = (source.protocol or {}).get("name", "")
            defaults = make_configs(
                **settings_for(protocol=protocol, objective=default_objective(source, model_config))
            )
            model_config, train_config = model_config or defaults[0], train_config or defaults[1]
        model_config = fit_to_source(model_config, source)
        if queries is not None:
            check_queries(queries, source, model_config)
        check_enough(source if queries is None else queries, train_config)
        torch.manual_seed(train_config.seed % 2**63)
        model = MeCoQ(model_config)
    _set_up(model, train_config)
    try:
        check_for_ranks(model, given.ranks)
        held_out = None if given.validation is None else Validation(given.validation, model, train_config, device)
        given.ranks.wait()
        _tell(model, given, train_config)
        pairs, objective, train_config = _prepared(model, given, train_config, None if resume else given.budget)
        if not resume:
            prepare(model, pairs, train_config.codebook_init, train_config.seed)
            run.remove_temporary()  # what a killed start left
            run.remove()
            run.write_config(model_config, train_config)
            write_text(run.split_file, describe_data(source, queries))
            save_model(model, run.model_file)
        run_epochs(
            run, objective, pairs, train_config, ranks=given.ranks, device=device, tensorboard=given.tensorboard,
            callback=given.callback, held_out=held_out,
        )  # fmt: skip
    except BaseException as error:
        if not resume and not isinstance(error, Interrupted) and not run.read_metrics():
            run.remove()  # nothing was learned
        elif isinstance(error, TrainingError | RankLost):
            raise type(error)(f"{error}; the last checkpoint is kept in {run.path}") from error
        raise
    return model.cpu().eval()


def check_out(run: RunFolder, resume: bool) -> None:
    """FileExistsError where the folder holds anything but, on `resume`, a run or what a killed start left."""
    if not run.path.is_dir():
        if run.path.exists():
            raise FileExistsError(f"{run.path} is a file: choose another --out")
    elif not resume and (run.is_ours or run.foreign()):
        raise FileExistsError(f"{run.path} exists: choose another --out, or continue it with --resume")
    elif resume and run.config_file.exists():
        run.read_config()  # says what is wrong with it
    elif resume and run.foreign():
        raise FileExistsError(f"{run.path} holds other files, and no run to continue: choose another --out")
