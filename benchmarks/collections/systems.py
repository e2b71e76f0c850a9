"""What is compared on a collection: each system trained or fitted, and judged by both goals."""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper.cells import Cells, Result
from benchmarks.paper.controls import fit_unquantized
from benchmarks.paper.data import Data, Embeddings
from benchmarks.paper.experiment import PRECISION_AT, default_settings, fit, run_epochs
from mecoq_faiss.additive import AdditiveQuantizer
from mecoq_faiss.baselines import Baseline, Goal, choose_for, grid
from mecoq_faiss.baselines.choice import QUICK_ROUNDS
from mecoq_faiss.comparison.contenders import Contender, baseline_contender, learned_contender
from mecoq_faiss.config import make_configs
from mecoq_faiss.evaluation import evaluate_neighbors, evaluate_search
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.presets import settings_for
from mecoq_faiss.training.additive import fit_additive
from mecoq_faiss.training.neighbors import QUERIES, NeighborPairs
from mecoq_faiss.training.pairs import CachedPairs
from mecoq_faiss.training.preserve import Preserve
from mecoq_faiss.training.start import prepare

Array = NDArray[Any]
NEIGHBORS, PRESERVED_ROWS = 10, 20_000
HELD = 10_000  # items at most on which settings are chosen
FOUR_BIT = 4  # bytes at which 4-bit codes are shown too


def of_one_kind(data: Data, cells: Cells, num_bytes: int, seeds: int) -> list[Result]:
    """Systems judged by labels (MAP, precision), and by exact neighbors of the centred and normalised features."""
    near = neighbors(*(normalised(x, data.xt) for x in (data.xb, data.xq)))
    rows = []
    many = len(np.unique(data.yb)) >= MANY
    for seed in range(seeds):
        for system, change in SYSTEMS.items():
            if system == "learned, fine" and not many:
                continue
            if system == "learned, 4-bit" and (seed or num_bytes != FOUR_BIT):
                continue
            s = default_settings(8 * num_bytes, **change, cached_views=data.views.shape[1]) | {"seed": seed}
            name = f"{system} {num_bytes} bytes seed {seed}"
            found = cells.get(name, s, partial(_learned, data, s, near))
            shown = {"bytes": num_bytes, "seed": seed, "setting": s}
            rows += [{"system": system + more, **shown, **found[codes]} for codes, more in CODES.items()]
    return rows + _faiss(data, cells, num_bytes, data.yb, data.xt, data.held, near)


SYSTEMS: dict[str, dict[str, Any]] = {
    "learned": {},
    "learned, fine": {"objective": "fine", "codes": "product"},  # it takes additive ones by itself, shown beside these
    "learned, 4-bit": {"nbits": 4},
}
MANY = 50  # kinds, from which `--objective fine` is for the collection
CODES = {"product": "", "additive": ", additive"}  # of one embedding


def _learned(data: Data, settings: dict[str, Any], near: Array) -> Result:
    started = time.monotonic()
    model, _ = fit(data.views, settings, xt=data.xt)
    seconds = time.monotonic() - started
    found = {"product": _figures(data, learned_contender(model, data.xb), near) | {"train_seconds": seconds}}
    summed = _additive(model, data)
    return found | {"additive": _figures(data, learned_contender(summed, data.xb), near) | {"train_seconds": seconds}}


def _additive(model: MeCoQ, data: Data) -> MeCoQ:
    """The same embedding with additive codes, fitted as `codes=additive` does."""
    model = copy.deepcopy(model)
    c = model.config = dataclasses.replace(model.config, codes="additive")
    model.additive = AdditiveQuantizer(c.D, c.M, c.K)
    fit_additive(model, CachedPairs(data.views, 512, 0, "cpu"), 0)
    return model


PARTS: dict[str, dict[str, Any]] = {
    "the default recipe": {},
    "without distillation": {"preserve_weight": 0.0},
    "distilled from features as they are": {"preserve_neighbors": 0},
    "reconstructions only": {"asymmetric_share": 0.0},
    "without polishing": {"polish_rounds": 0},
    "without the three": {"preserve_weight": 0.0, "asymmetric_share": 0.0, "polish_rounds": 0},
    "positive prior 0.05": {"positive_prior": 0.05},
}
UNQUANTIZED = "no quantizer in the loss, k-means after"


def parts(data: Data, cells: Cells, num_bytes: int, seeds: int) -> list[Result]:
    """What each part of the default recipe is worth: the product codes without it."""
    near = neighbors(*(normalised(x, data.xt) for x in (data.xb, data.xq)))
    rows = []
    for system, change in PARTS.items():
        s = default_settings(8 * num_bytes, **change, cached_views=data.views.shape[1])
        found = cells.get(f"learned {num_bytes} bytes seed 0", s | {"seed": 0}, partial(_learned, data, s, near))
        rows.append({"system": system, "bytes": num_bytes, "seed": 0, "setting": s, **found["product"]})
    s = default_settings(8 * num_bytes, cached_views=data.views.shape[1]) | {"seed": 0}
    found = cells.get(f"{UNQUANTIZED} {num_bytes} bytes", s, partial(_unquantized, data, s, near))
    return [*rows, {"system": UNQUANTIZED, "bytes": num_bytes, "seed": 0, "setting": s, **found}]


def _unquantized(data: Data, settings: dict[str, Any], near: Array) -> Result:
    return _figures(data, learned_contender(fit_unquantized(data.views, settings, data.xt), data.xb), near)


GROWTH = (1_000, 5_000, 20_000)  # images, before all
CHOSEN_ON = 5_000  # of them; FAISS's codes are then fitted to all


def growth(data: Data, cells: Cells, num_bytes: int, seeds: int) -> list[Result]:
    """What it is worth to train on more of the database: the default recipe on its first images in random order.

    Beside it FAISS's codes, trained on all, with the settings that are best where the first 5,000 are trained on.
    """
    near = neighbors(*(normalised(x, data.xt) for x in (data.xb, data.xq)))
    rows = []
    order = np.random.default_rng(0).permutation(len(data.xt))
    for seed in range(seeds):
        s = default_settings(8 * num_bytes, cached_views=data.views.shape[1]) | {"seed": seed}
        for count in (*(n for n in GROWTH if n < len(order)), len(order)):
            some = np.sort(order[:count])
            fewer = dataclasses.replace(data, views=data.views[some], xt=data.xt[some])
            name = f"learned {num_bytes} bytes seed {seed}, {count} images"
            found = cells.get(name, s, partial(_learned, fewer, s, near))
            shown = {"images": count, "bytes": num_bytes, "seed": seed, "setting": s}
            rows += [{"system": "learned" + more, **shown, **found[codes]} for codes, more in CODES.items()]
    chosen_on, held = data.xt[np.sort(order[:CHOSEN_ON])], np.sort(order[CHOSEN_ON:][:HELD])
    codes_of_faiss = _faiss(data, cells, num_bytes, data.yb, chosen_on, held, near, fitted_to=data.xt)
    return rows + [{"images": len(order), **row} for row in codes_of_faiss]


USUAL = "PQ, standardised"
JUDGED: dict[Goal, str] = {"map": "kind", "neighbours": "neighbors"}


def _faiss(
    data: Embeddings,
    cells: Cells,
    num_bytes: int,
    labels: Array | None,
    xt: Array,
    held: Array,
    near: Array,
    fitted_to: Array | None = None,
) -> list[Result]:
    """Each of FAISS's methods with the setting that is best on held-out items, by labels or by their neighbors.

    It is chosen with `xt` trained on, and then fitted to these or to `fitted_to`.
    """
    goal: Goal = "neighbours" if labels is None else "map"
    metric = "cosine" if labels is None else "aqs"
    settings = [s for s in grid(num_bytes, data.xb.shape[1], quick=True, metric=metric) if s.min_rows <= len(xt)]

    def pick() -> Result:
        k = max(10, round(data.k * len(held) / len(data.xb)))
        known = None if labels is None else labels[held]
        best, _ = choose_for([goal], settings, xt, data.xb[held], known, k, rounds=QUICK_ROUNDS, metric=metric)
        return {"names": {method: setting.name for method, setting in best[goal].items()}}

    trained = {} if goal == "map" else {"rows": len(xt)}
    key = trained | {"grid": [s.name for s in settings]} | ({} if fitted_to is None else {"chosen_on": len(xt)})
    names = cells.get(f"FAISS settings {num_bytes} bytes by {JUDGED[goal]}", key, pick)["names"]
    fit = partial(_baseline, data, xt=xt if fitted_to is None else fitted_to, near=near)
    by_name = {s.name: s for s in settings}
    rows = []
    for method, name in names.items():
        what = f"{method} by {JUDGED[goal]}" + (f" {num_bytes} bytes" if method != "Flat" else "")
        found = cells.get(what, trained | {"setting": name}, partial(fit, by_name[name]))
        rows.append({"system": method, "bytes": num_bytes, "seed": 0, "setting": name, **found})
    if goal == "map":  # what full choices found best for PQ, whatever the quick one finds
        usual = Baseline("PQ", num_bytes, 8, "standardised+normalised", "IP")
        found = cells.get(f"{USUAL} {num_bytes} bytes", {"setting": usual.name}, partial(fit, usual))
        rows.append({"system": USUAL, "bytes": num_bytes, "seed": 0, "setting": usual.name, **found})
    return rows


def _baseline(data: Embeddings, setting: Baseline, xt: Array, near: Array) -> Result:
    return _figures(data, baseline_contender(setting.fit(xt, 0), data.xb), near)


def preserved(data: Embeddings, cells: Cells, num_bytes: int, seeds: int, most: int = PRESERVED_ROWS) -> list[Result]:
    """Codes of given embeddings (centred and normalised features), judged by their exact neighbors by cosine."""
    own = dataclasses.replace(
        data, xb=normalised(data.xb, data.xt), xq=normalised(data.xq, data.xt), xt=normalised(data.xt, data.xt)
    )
    near = neighbors(own.xb, own.xq)
    order = np.random.default_rng(0).permutation(len(own.xb))
    rows, rest = np.sort(order[:most]), order[most:]
    xt, held = own.xb[rows], np.sort(rest[:HELD] if len(rest) >= 2_000 else order[: max(60, len(order) // 3)])
    found = []
    for seed in range(seeds):
        given = {"bits": 8 * num_bytes, "objective": "preserve", "backbone": "features", "weights": "none"}
        s = settings_for("default", None, given | {"feature_dim": xt.shape[1], "seed": seed})
        key = s | {"rows": len(xt)}
        result = cells.get(f"preserve {num_bytes} bytes seed {seed}", key, partial(_preserve, own, s, xt, near))
        found.append({"system": "preserve", "bytes": num_bytes, "seed": seed, "setting": s, **result})
    return found + _faiss(own, cells, num_bytes, None, xt, held, near)


def _preserve(data: Embeddings, settings: dict[str, Any], xt: Array, near: Array) -> Result:
    started = time.monotonic()
    model_config, c = make_configs(**settings)
    torch.manual_seed(c.seed)
    model = MeCoQ(model_config)
    pairs = NeighborPairs(xt, model_config.metric, QUERIES, c.seed, "cpu")
    prepare(model, pairs, c.codebook_init, c.seed)
    run_epochs(Preserve(model, c), pairs, c)
    seconds = time.monotonic() - started
    return _figures(data, learned_contender(model.eval(), data.xb), near) | {"train_seconds": seconds}


def _figures(data: Embeddings, contender: Contender, near: Array) -> Result:
    xq = contender.queries(data.xq)
    found = evaluate_search(contender.index, xq, data.yq, data.yb, data.k)
    at = {str(n): float(found["precision"][n - 1]) for n in PRECISION_AT if n <= len(found["precision"])}
    recall = {str(k): float(evaluate_neighbors(contender.index, xq, near, k)) for k in (10, 100)}
    return {"map": found["map"], "precision_at": at, "recall_at": recall}


def normalised(x: Array, xt: Array) -> Array:
    """Features (n, F) less the mean of xt, of norm 1."""
    x = np.asarray(x, dtype=np.float32) - xt.mean(axis=0, dtype=np.float64).astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def neighbors(xb: Array, xq: Array) -> Array:
    """The 10 exact neighbors (nq, 10) of each query, by inner product."""
    return faiss.knn(np.ascontiguousarray(xq), np.ascontiguousarray(xb), NEIGHBORS, faiss.METRIC_INNER_PRODUCT)[1]
