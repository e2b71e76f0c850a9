"""Rivals written from their papers: the settings of each, what held-out images choose among, and its row of Table 1."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.paper import hashing, quantizing, shallow
from benchmarks.paper.cells import Cells, Result
from benchmarks.paper.data import Data
from benchmarks.paper.experiment import Settings, figures
from mecoq_faiss.baselines.baseline import PREPROCESSES
from mecoq_faiss.evaluation import evaluate_search

CHOSEN_AT = 32  # bits
RATES: list[Settings] = [{"lr": 1e-3}, {"lr": 1e-4}]


@dataclass(frozen=True)
class System:
    """One rival.

    Attributes:
        settings: its paper's.
        choices: changes to them, among which held-out images choose.
        fit: (data, bits, seed, settings) -> what has `index(xb)` and `queries(xq)`.
    """

    settings: Settings
    choices: Sequence[Settings]
    fit: Callable[[Data, int, int, Settings], Any]


def _shallow(name: str) -> System:
    def fit(data: Data, bits: int, seed: int, settings: Settings) -> Any:
        return shallow.fit_shallow(name, data.xt, bits, seed, settings)

    ways: list[Settings] = [{"preprocess": way} for way in PREPROCESSES]
    if name == "SH":  # a Boltzmann machine's visible units have unit variance
        ways = [{"lr": lr, "noise": noise} for lr in (1e-2, 1e-3) for noise in (4.0, 1.0)]
    return System(shallow.default_settings(name), ways, fit)


def _hashing(name: str) -> System:
    def fit(data: Data, bits: int, seed: int, settings: Settings) -> Any:
        return hashing.fit_hashing(name, data.views, bits, seed, settings)

    return System(hashing.default_settings(name), RATES, fit)


def _quantizing(name: str) -> System:
    def fit(data: Data, bits: int, seed: int, settings: Settings) -> Any:
        return quantizing.fit_quantizing(name, data.views, bits, seed, settings)

    return System(quantizing.default_settings(name), RATES, fit)


SYSTEMS: dict[str, System] = {
    **{name: _shallow(name) for name in shallow.METHODS},
    **{name: _hashing(name) for name in hashing.METHODS},
    **{name: _quantizing(name) for name in quantizing.METHODS},
}


def row(data: Data, cells: Cells, name: str, bits: int, seed: int) -> Result:
    """The system's row of Table 1, with the choice that is best on held-out images."""
    system = SYSTEMS[name]
    key = system.settings | {"choices": list(system.choices)}
    chosen = cells.get(f"{name} choice", key, partial(_choose, data, system))
    settings = system.settings | chosen["change"]

    def compute() -> Result:
        started = time.monotonic()
        fitted = system.fit(data, bits, seed, settings)
        seconds = time.monotonic() - started
        return figures(fitted.index(data.xb), fitted.queries(data.xq), data) | {"train_seconds": seconds}

    result = cells.get(f"{name} {bits} bits seed {seed}", settings, compute)
    return {"system": name, "bits": bits, "seed": seed, "setting": settings, **result}


def _choose(data: Data, system: System) -> Result:
    order = np.random.default_rng(0).permutation(data.held)
    queries, database = np.split(order, [min(1000, len(order) // 5)])
    k = max(10, round(data.k * len(database) / len(data.xb)))
    held_out = []
    for change in system.choices:
        fitted = system.fit(data, CHOSEN_AT, 0, system.settings | change)
        index, xq = fitted.index(data.xb[database]), fitted.queries(data.xb[queries])
        found = evaluate_search(index, xq, data.yb[queries], data.yb[database], k)["map"]
        held_out.append({"change": change, "map": found})
    return {**max(held_out, key=lambda tried: tried["map"]), "held_out": held_out}
