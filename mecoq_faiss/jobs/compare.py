"""The learned codes beside what FAISS has without learning, at equal bytes: the whole job and its verdict."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mecoq_faiss.baselines import QUICK_ROUNDS, ROUNDS, Baseline, Goal, choose_for, grid
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.bundle.folder import is_bundle
from mecoq_faiss.comparison.assumptions import warnings
from mecoq_faiss.comparison.contenders import LEARNED, Contender, baseline_contender, learned_contender
from mecoq_faiss.comparison.data import CompareData, load_data, of_model
from mecoq_faiss.comparison.figures import TABLE_RANKS, Task, file_bytes, quality, search_milliseconds
from mecoq_faiss.comparison.tables import at_ranks
from mecoq_faiss.comparison.verdict import verdict
from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.sources import Source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.devices import resolve_device
from mecoq_faiss.runtime.environment import environment
from mecoq_faiss.storage.files import check_writable_parent, write_text
from mecoq_faiss.training.fit import fit_run
from mecoq_faiss.training.run_folder import RunFolder

logger = logging.getLogger("mecoq_faiss")
FORMAT = 2
CURVE_POINTS = 60

Measured = tuple[Contender, dict[str, Any]]  # with its `quality`


def compare(
    run: str | Path,
    queries: str | Path | Source,
    database: str | Path | Source,
    out: str | Path,
    k: int | None = None,
    *,
    seeds: int = 1,
    items: int = 200_000,
    settings: Sequence[Baseline] | None = None,
    quick: bool = False,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Compare a trained model with every code that FAISS has at equal bytes, and with uncompressed vectors.

    All work on the features of the model's own backbone. Writes `report.json` and `report.html` into the folder `out`.

    PQ, OPQ, the additive quantizers RQ, LSQ, PRQ and PLSQ, RaBitQ (above 8 bytes), ITQ and LSH: each one's setting is
    chosen on a held-out part of the database, never on the queries. There are two goals, each with its own advice: to
    find what is of one kind, and to find the exact neighbours by uncompressed features; each has its own choice of
    settings. Labels, where both sources have them, only judge; without them the first goal's figure is the recall of
    images whose altered copies are the queries (what the learned codes are trained to find), and where that and the
    neighbours contradict each other there is no winner. See `comparison.verdict`; `comparison.assumptions` warns.

    Args:
        run: a finished run, or a bundle.
        queries: a source or its name; of a built-in protocol, the queries.
        database: a source or its name; of a built-in protocol, the database.
        out: the folder to be made; refused where it exists.
        k: the cut-off of MAP (at most the database's size); by default 1000, or the whole of a smaller database.
        seeds: fits of every baseline, and trainings of the model's settings (the run is the first; the others need
            the run's training data and its weights file). Each model is judged on the features of its own backbone,
            the baselines on those of the run's.
        items: a larger database is cut to a seeded sample of so many.
        settings: baselines to choose from; by default `baselines.grid`.
        quick: a first answer: fewer of those, chosen in fewer rounds.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        The content of report.json.

    Raises:
        ValueError, OSError, ImportError: what is wrong with the input, or missing, in one line.

    Example:
        >>> from mecoq_faiss import compare
        >>> from mecoq_faiss.baselines import Baseline
        >>> report = compare("run", "digits", "digits", "report", k=100, settings=[Baseline("PQ", 4), Baseline("Flat")])
        >>> [method["label"] for method in report["methods"]]
        ['MeCoQ', 'PQ', 'Flat']
    """
    from mecoq_faiss.comparison.report import write_report  # needs matplotlib: say so before the work

    run, out = Path(run), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out")
    if seeds < 1 or (k is not None and k < 1):
        raise ValueError(f"seeds={seeds}, k={k}: give at least 1")
    check_writable_parent(out)
    device = resolve_device(device)
    model = load_encoder(run, device).model
    model_config, train_config = (model.config, None) if is_bundle(run) else RunFolder(run).read_config()
    if seeds > 1:
        _check_trainable(model_config, train_config, seeds)
    data = load_data(run, model, train_config, queries, database, k, items=items, workers=workers, device=device)
    k = data.task.k
    if seeds > 1 and data.train_source is None:
        raise ValueError(f"--seeds {seeds} trains again, and the training data is not at hand: {data.train_note}")

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        num_bytes = model.config.bits // 8
        if settings is None:
            settings = grid(num_bytes, data.xb.shape[1], quick=quick, metric=model_config.metric)
        held = data.held
        labels = None if data.task.labels_db is None else data.task.labels_db[held]
        usable = [s for s in settings if s.min_rows <= min(len(data.xt_choice), len(data.xt))]
        k_held = max(10, round(k * len(held) / len(data.xb)))
        rounds = QUICK_ROUNDS if quick else ROUNDS
        logger.info("choosing among %d settings of the baselines on %d held-out items", len(usable), len(held))
        goals: list[Goal] = ["neighbours"] if labels is None else ["map", "neighbours"]
        best, table = choose_for(
            goals, usable, data.xt_choice, data.xb[held], labels, k_held, rounds=rounds, metric=model_config.metric
        )

        methods, shown = [], []
        logger.info("measuring %s", LEARNED)
        measured = [_measure_learned(model, train_config, data, workers, device)]
        shown.append(measured[0][0])
        for extra in range(1, seeds):
            again = _train_again(model_config, train_config, data, extra, temporary, workers, device)
            measured.append(_measure_learned(again, train_config, data, workers, device))
        methods.append(_figures(measured, data.task) | {"neighbours_setting": measured[0][0].setting})
        for setting in sorted(best[goals[0]].values(), key=lambda s: s.method == "Flat"):  # the ceiling comes last
            keeper = best["neighbours"][setting.method]
            logger.info("measuring %s", setting.name if keeper == setting else f"{setting.name}; {keeper.name}")
            measured = [_measure_baseline(setting, keeper, data, seed) for seed in range(seeds)]
            methods.append(_figures(measured, data.task) | {"neighbours_setting": keeper.name})
            shown.append(measured[0][0])
        judged = verdict(methods, data.task, num_bytes)
        for method in methods:
            del method["per_query"]
        report = {
            "format": FORMAT,
            **judged,
            "warnings": warnings(model_config, train_config, data.train_source, data.task.labels_db, len(data.task.xq)),
            "methods": methods,
            "by_rank": at_ranks(methods, judged["key"]),
            "data": data.description
            | {"k": k, "seeds": seeds, "quick": quick, "held_out": len(held), "k_held_out": k_held},
            "choice": table,
            "model": asdict(model_config),
            "train": None if train_config is None else asdict(train_config),
            "environment": environment(),
        }
        report = json.loads(json.dumps(report, default=np.ndarray.tolist))
        write_text(temporary / "report.json", json.dumps(report, indent=1) + "\n")
        write_report(temporary / "report.html", report, data, shown)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return report


def _check_trainable(model_config: ModelConfig, train_config: TrainConfig | None, seeds: int) -> None:
    """One line where a further seed cannot be trained, before any work."""
    if train_config is None:
        raise ValueError(f"--seeds {seeds} trains again, and a bundle has no training settings: give its run folder")
    weights = model_config.weights
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"--seeds {seeds} trains again, and the run's weights file {weights} is gone: put it back, or use one seed"
        )


def _train_again(
    model_config: ModelConfig,
    train_config: TrainConfig | None,
    data: CompareData,
    extra: int,
    folder: Path,
    workers: int,
    device: str,
) -> MeCoQ:
    """The run's settings trained with a further seed, from the weights that the run started with."""
    assert train_config is not None and data.train_source is not None
    again = replace(train_config, seed=train_config.seed + extra, workers=workers)
    logger.info("training %s with seed %d", LEARNED, again.seed)
    model = fit_run(data.train_source, folder / "run", model_config, again, device=device)
    shutil.rmtree(folder / "run")
    return model


def _measure_learned(
    model: MeCoQ, config: TrainConfig | None, data: CompareData, workers: int, device: str
) -> Measured:
    xb, task = of_model(data, model, config, workers=workers, device=device)
    contender = learned_contender(model.cpu(), xb)
    return contender, quality(contender, task)


def _measure_baseline(setting: Baseline, keeper: Baseline, data: CompareData, seed: int) -> Measured:
    """A method with the setting chosen for the deciding figure; its exact neighbours with `keeper`, the best there."""
    contender = baseline_contender(setting.fit(data.xt, seed), data.xb)
    if keeper == setting:
        return contender, quality(contender, data.task)
    found = quality(contender, replace(data.task, neighbors=None))
    other = baseline_contender(keeper.fit(data.xt, seed), data.xb)
    neighbors = quality(other, replace(data.task, labels_q=None, labels_db=None, views=None))
    return contender, found | neighbors | {"per_query": found["per_query"] | neighbors["per_query"]}


def _figures(seeds: Sequence[Measured], task: Task) -> dict[str, Any]:
    """A method's entry in the report: all figures of the first seed, and the deciding one of every seed.

    `per_query` (for the verdict) holds every seed's terms of each measure.
    """
    key, *_ = task.measures
    per_query: dict[str, list[NDArray[np.float64]]] = {
        name: [found["per_query"][name] for _, found in seeds] for name in task.measures
    }
    first, figures = seeds[0][0], {name: value for name, value in seeds[0][1].items() if name != "per_query"}
    values = [float(found.mean()) for found in per_query[key]]
    if "precision" in figures:
        ranks = np.geomspace(1, len(figures["precision"]), CURVE_POINTS).astype(int)
        ranks = np.union1d(ranks, [n for n in TABLE_RANKS if n <= len(figures["precision"])])
        figures |= {name: figures[name][ranks - 1] for name in ("precision", "recall")} | {"ranks": ranks}
    return {
        "label": first.label,
        "setting": first.setting,
        "num_bytes": first.num_bytes,
        "score": float(np.mean(values)),
        "scores": values,
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "quality": figures,
        "search_ms": search_milliseconds(first, task.xq),
        "file_bytes": file_bytes(first),
        "codewords": first.codewords_used,
        "per_query": per_query,
    }
