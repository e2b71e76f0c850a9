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

from .baselines import Baseline, choose, grid
from .bundle import is_bundle
from .checkpoint import RunFolder
from .comparedata import CompareData, load_data
from .config import TrainConfig
from .contenders import LEARNED, Contender, baseline_contender, learned_contender
from .datasets import FeatureSource, ImageSource
from .describe import environment
from .encoder import load_encoder
from .files import check_writable_parent, write_text
from .measure import Task, difference, file_bytes, quality, search_milliseconds
from .model import MeCoQ
from .train import train

logger = logging.getLogger("mecoq_faiss")
FORMAT = 1
CURVE_POINTS = 60

Source = str | Path | ImageSource | FeatureSource


def compare(
    run: str | Path,
    queries: Source,
    database: Source,
    out: str | Path,
    k: int = 1000,
    *,
    seeds: int = 1,
    items: int = 200_000,
    settings: Sequence[Baseline] | None = None,
    workers: int = -1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare a trained model with PQ, OPQ, ITQ, LSH (equal bytes) and uncompressed vectors on its own backbone's
    features, and write `report.json` and `report.html` into the folder `out`.

    Each baseline's setting is chosen on a held-out part of the database, never on the queries. Labels, where both
    sources have them, only judge; without them the figures are the recall of images whose altered copies are the
    queries, and of exact neighbours.

    Args:
        run: a finished run, or a bundle.
        queries, database: sources or their names.
        out: the folder to be made; refused where it exists.
        k: the cut-off of MAP (at most the database's size).
        seeds: fits of every baseline, and trainings of the model's settings (the run is the first; the others need
            the run's training data).
        items: a larger database is cut to a seeded sample of so many.
        settings: baselines to choose from; by default `baselines.grid`.
        workers, device: as in `encode`.

    Returns:
        The content of report.json.

    Raises:
        ValueError, OSError, ImportError: what is wrong with the input, or missing, in one line.
    """
    from .report import write_report  # needs matplotlib: say so before the work

    run, out = Path(run), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out")
    if seeds < 1 or k < 1:
        raise ValueError(f"seeds={seeds}, k={k}: give at least 1")
    check_writable_parent(out)
    model = load_encoder(run, device).model
    train_config = None if is_bundle(run) else RunFolder(run).read_config()[1]
    data = load_data(run, model, train_config, queries, database, k, items=items, workers=workers, device=device)
    if seeds > 1 and (data.train_source is None or train_config is None):
        raise ValueError(f"--seeds {seeds} trains again, and the training data is not at hand: {data.train_note}")

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        num_bytes = model.config.bits // 8
        settings = grid(num_bytes, data.xb.shape[1]) if settings is None else settings
        held = data.held
        labels = None if data.task.labels_db is None else data.task.labels_db[held]
        usable = [s for s in settings if s.min_rows <= min(len(data.xt_choice), len(data.xt))]
        k_held = max(10, round(k * len(held) / len(data.xb)))
        best, table = choose(usable, data.xt_choice, data.xb[held], labels, k_held)

        methods, shown = [], []
        logger.info("measuring %s", LEARNED)
        models = _models(model, train_config, data, seeds, temporary, workers, device)
        contenders = [learned_contender(m.cpu(), data.xb) for m in models]
        methods.append(_figures(contenders, data.task))
        shown.append(contenders[0])
        for setting in sorted(best.values(), key=lambda s: s.method == "Flat"):  # the ceiling comes last
            logger.info("measuring %s", setting.name)
            contenders = [baseline_contender(setting.fit(data.xt, seed), data.xb) for seed in range(seeds)]
            methods.append(_figures(contenders, data.task))
            shown.append(contenders[0])
        report = {
            "format": FORMAT,
            **_verdict(methods, data.task, num_bytes),
            "methods": methods,
            "data": data.description | {"k": k, "seeds": seeds, "held_out": len(held), "k_held_out": k_held},
            "choice": table,
            "model": asdict(model.config),
            "train": None if train_config is None else asdict(train_config),
            "environment": environment(),
        }
        report = json.loads(json.dumps(report, default=np.ndarray.tolist))
        for method in report["methods"]:
            method["quality"].pop("ap", None)
        write_text(temporary / "report.json", json.dumps(report, indent=1) + "\n")
        write_report(temporary / "report.html", report, data, shown)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return report


def _models(
    model: MeCoQ,
    config: TrainConfig | None,
    data: CompareData,
    seeds: int,
    folder: Path,
    workers: int,
    device: str,
) -> list[MeCoQ]:
    """The run's model, and its settings trained with the following seeds."""
    models = [model]
    for extra in range(1, seeds):
        assert config is not None and data.train_source is not None
        again = replace(config, seed=config.seed + extra, workers=workers)
        logger.info("training %s with seed %d", LEARNED, again.seed)
        models.append(train(data.train_source, folder / "run", model.config, again, device=device))
        shutil.rmtree(folder / "run")
    return models


def _figures(contenders: Sequence[Contender], task: Task) -> dict[str, Any]:
    """A method's entry in the report: all figures of the first seed, and the deciding one of every seed."""
    key, _ = task.measure
    qualities = [quality(contender, task) for contender in contenders]
    first, figures = contenders[0], qualities[0]
    values = [q[key] for q in qualities]
    if "precision" in figures:
        ranks = np.unique(np.geomspace(1, len(figures["precision"]), CURVE_POINTS).astype(int))
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
    }


def _verdict(methods: list[dict[str, Any]], task: Task, num_bytes: int) -> dict[str, Any]:
    """Which one to use, in a sentence; a difference within its 95 % interval over the queries decides nothing."""
    key, name = task.measure
    learned = methods[0]
    others = [m for m in methods[1:] if m["num_bytes"] == num_bytes]
    gap: dict[str, Any] = {"measure": name, "key": key, "winner": LEARNED}
    if not others:
        return gap | {"verdict": "Nothing of the same size was compared."}
    rival = max(others, key=lambda m: m["score"])
    gap |= {"rival": rival["setting"], "gain": learned["score"] - rival["score"], "interval": None}
    if "ap" in learned["quality"]:
        _, gap["interval"] = difference(learned["quality"]["ap"], rival["quality"]["ap"])
    if learned["deviation"] is not None:  # of a difference of means over the seeds
        spread = 1.96 * np.hypot(learned["deviation"], rival["deviation"]) / np.sqrt(len(learned["scores"]))
        gap["interval"] = float(np.hypot(gap["interval"] or 0.0, spread))
    scores = (
        f"{name} is {learned['score']:.3f} for the learned codes and {rival['score']:.3f} for the best of the others, "
        f"{rival['setting']}, both at {num_bytes} bytes a vector"
    )
    margin = f" (difference {gap['gain']:+.3f} ± {gap['interval']:.3f})" if gap["interval"] is not None else ""
    if abs(gap["gain"]) <= (gap["interval"] or 0.0):
        return gap | {"winner": None, "verdict": f"No clear winner, keep what you have: {scores}{margin}."}
    if gap["gain"] > 0:
        return gap | {"verdict": f"Use the learned codes: {scores}{margin}."}
    return gap | {"winner": rival["label"], "verdict": f"Use {rival['setting']}, without learning: {scores}{margin}."}
