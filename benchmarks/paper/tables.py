"""Tables 1 to 3 of the paper as cells: one training or fit, and one search with all queries, each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.paper import controls, systems
from benchmarks.paper.cells import Cells, Result
from benchmarks.paper.data import Data
from benchmarks.paper.experiment import Settings, default_settings, figures, fit, paper_settings, run
from benchmarks.paper.recipe import changed
from benchmarks.speed.measure import peak_of
from mecoq_faiss.baselines import Baseline, choose, grid
from mecoq_faiss.comparison.contenders import baseline_contender, learned_contender
from mecoq_faiss.evaluation import evaluate_search
from mecoq_faiss.model import MeCoQ

OWN = ("MeCoQ", "MeCoQ, 4-bit codes")  # these, controls and FAISS's methods run with all seeds; the rest with one
CONTROLS = ("contrast without a quantizer, then k-means", "PQ, distilled")
VARIANTS: dict[str, dict[str, Any]] = {  # Table 2
    "full": {},
    "without debiasing": {"positive_prior": 0.0},
    "without regularisation": {"diversity_weight": 0.0},
    "without memory": {"memory_size": 0},
    "feature memory": {"memory_kind": "feature"},
    "hard-code memory": {"memory_kind": "hard"},
    "memory without delay": {"memory_start_epoch": 1},
}
PROFILES = ((128, 0), (256, 0), (128, 128), (128, 384), (128, 896))  # Table 3: batch, memory


def recipes(data: Data, bits: int) -> dict[str, Settings]:
    """This method's rows of Table 1."""
    return {
        "MeCoQ": default_settings(bits),
        "MeCoQ, 4-bit codes": default_settings(bits, nbits=4),
        "MeCoQ, the paper's settings": paper_settings(data, bits),
        "MeCoQ, its release's settings": paper_settings(data, bits, release=True),
        "MeCoQ, its release's settings, standardised features": paper_settings(
            data, bits, release=True, standardize=True
        ),
    }


def table1(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """This method, its release's settings, controls, rivals and FAISS's codes: equal bytes, the same features."""
    rows: list[Result] = []
    for seed in range(seeds):
        rows += [_without_curves(row) for row in table1_rows(data, cells, bits, seed)]
        cells.write("table1", {"k": data.k, "bits": list(bits), "seeds": seed + 1, "rows": rows})


def table1_rows(data: Data, cells: Cells, bits: Sequence[int], seed: int) -> list[Result]:
    """One seed's rows, with their curves."""
    rows: list[Result] = []
    for size in bits:
        for name, settings in recipes(data, size).items():
            if seed and name not in OWN:
                continue
            rows.append(_own(data, cells, name, settings, size, seed))
        rows += [_control(data, cells, name, size, seed) for name in CONTROLS]
        rows += _baselines(data, cells, size, seed)
        if not seed:
            rows += [systems.row(data, cells, name, size, seed) for name in systems.SYSTEMS]
    return rows


def rivals(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Table 1 without FAISS's codes: this method's default, the controls and the rivals, one seed."""
    rows: list[Result] = []
    for size in bits:
        found = [_own(data, cells, OWN[0], default_settings(size), size, 0)]
        found += [_control(data, cells, name, size, 0) for name in CONTROLS]
        found += [systems.row(data, cells, name, size, 0) for name in systems.SYSTEMS]
        rows += [_without_curves(row) for row in found]
        cells.write("rivals", {"k": data.k, "bits": list(bits), "seeds": 1, "rows": rows})


def _own(data: Data, cells: Cells, name: str, settings: Settings, bits: int, seed: int) -> Result:
    """One of this method's rows."""
    s = settings | {"seed": seed}
    result = cells.get(f"{name} {bits} bits seed {seed}", s, partial(run, data, s))
    return {"system": name, "bits": bits, "seed": seed, "setting": settings, **result}


def _baselines(data: Data, cells: Cells, bits: int, seed: int) -> list[Result]:
    """Each of FAISS's methods with the setting that is best on held-out images."""
    settings = grid(bits // 8, data.xb.shape[1])
    settings = [s for s in settings if s.min_rows <= len(data.xt)]

    def pick() -> Result:
        k = max(10, round(data.k * len(data.held) / len(data.xb)))
        _, table = choose(settings, data.xt, data.xb[data.held], data.yb[data.held], k)
        return {"table": table}

    table = cells.get(f"baselines' settings {bits} bits", {"grid": [s.name for s in settings]}, pick)["table"]
    by_name = {s.name: s for s in settings}
    rows = []
    for method, name in {row["method"]: row["name"] for row in reversed(table)}.items():  # the best comes last
        at, fits = ("", 0) if method == "Flat" else (f" {bits} bits", seed)
        result = cells.get(f"{method}{at} seed {fits}", {"setting": name}, partial(_fit, data, by_name[name], fits))
        rows.append({"system": method, "bits": bits, "seed": seed, "setting": name, **result})
    return rows


def _fit(data: Data, setting: Baseline, seed: int) -> Result:
    contender = baseline_contender(setting.fit(data.xt, seed), data.xb)
    found = figures(contender.index, contender.queries(data.xq), data)
    return found | {"codewords": contender.codewords_used}


def _control(data: Data, cells: Cells, name: str, bits: int, seed: int) -> Result:
    """A learned control: what the embedding, or the codebooks, are worth alone."""
    if name == CONTROLS[0]:
        settings = default_settings(bits) | {"seed": seed}
    else:
        settings = controls.distilled_defaults() | {"seed": seed}

    def compute() -> Result:
        started = time.monotonic()
        if name == CONTROLS[0]:
            model = controls.fit_unquantized(data.views[:, : settings["cached_views"] or None], settings)
            contender = learned_contender(model, data.xb)
            index, xq = contender.index, contender.queries(data.xq)
        else:
            pq = controls.fit_distilled(data.xt, bits // 8, seed, settings)
            index, xq = pq.index(data.xb), pq.queries(data.xq)
        return figures(index, xq, data) | {"train_seconds": time.monotonic() - started}

    result = cells.get(f"{name} {bits} bits seed {seed}", settings, compute)
    return {"system": name, "bits": bits, "seed": seed, "setting": settings, **result}


def table2(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """The six variants, of the paper's settings and of the default recipe; written whenever a recipe is through."""
    _table2("table2", ("paper's settings", "default recipe"), data, cells, bits, seeds)


def variants(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Table 2 of the default recipe alone."""
    _table2("variants", ("default recipe",), data, cells, bits, seeds)


def _table2(name: str, recipes: Sequence[str], data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    rows: list[Result] = []
    for seed in range(seeds):
        for recipe in recipes:
            for size in bits:
                for variant, change in VARIANTS.items():
                    if recipe == "default recipe":
                        result = changed(data, cells, size, seed, change)
                    else:
                        s = paper_settings(data, size, **change) | {"seed": seed}
                        result = cells.get(f"{recipe} {variant} {size} bits seed {seed}", s, partial(run, data, s))
                    rows.append({"recipe": recipe, "variant": variant, "bits": size, "seed": seed})
                    rows[-1] |= _without_curves(result)
                cells.write(name, {"k": data.k, "bits": list(bits), "seeds": seed + 1, "rows": rows})


def table3(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Negatives, time an epoch and peak memory, with the paper's settings at 32 bits."""
    rows = []
    for batch, memory in PROFILES:
        change: dict[str, Any] = {"batch_size": batch, "memory_size": memory}
        s = paper_settings(data, 32, **change)
        result = cells.get(f"profile N={batch} memory={memory}", s, partial(_profile, data, s))
        rows.append({**change, "negatives": 2 * batch - 2 + memory, **result})
    cells.write("table3", {"k": data.k, "rows": rows})


def _profile(data: Data, settings: Settings) -> Result:
    threads = torch.get_num_threads()
    fit(data.views[: settings["batch_size"]], settings | {"epochs": 1})  # what libraries allocate once is not counted
    data.views[..., 0].sum()  # nor are the features: every page of their file is in memory from here on
    times: list[float] = []
    models: list[MeCoQ] = []

    def train() -> None:
        models.append(fit(data.views, settings, lambda epoch, objective: times.append(time.monotonic()))[0])

    try:
        _, peak = peak_of(train)
    except (OSError, AttributeError):  # not Linux: said before any work
        train()
        peak = None
    contender = learned_contender(models[-1], data.xb)
    found = evaluate_search(contender.index, contender.queries(data.xq), data.yq, data.yb, data.k)
    return {
        "map": found["map"],
        "seconds_an_epoch": float(np.median(np.diff(times))),
        "peak_bytes": peak,
        "threads": threads,
    }


def _without_curves(result: Result) -> Result:
    """A result without its curves."""
    return {name: value for name, value in result.items() if name not in ("ranks", "precision", "recall")}


def faiss_threads(threads: int) -> None:
    """The same number of threads for training and search."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
