"""The default recipe, one change at a time: judged on held-out database images; Figures 4 and 5 show the queries.

The first seed judges every change; further seeds those that it leaves within `MARGIN` of the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.paper.cells import Cells, Result
from benchmarks.paper.data import Data
from benchmarks.paper.experiment import Settings, default_settings, run

MARGIN = 0.005  # of MAP: about what the default scatters by from seed to seed
Change = tuple[str, Settings]  # what it is called, what it sets


def _values(name: str, *values: float | str) -> list[Change]:
    return [(str(value), {name: value}) for value in values]


SENSITIVITY: dict[str, list[Change]] = {  # Figure 5
    "memory_size": _values("memory_size", 0, 384, 896, 1792),
    "alpha": _values("alpha", 3.0, 5.0, 10.0, 20.0),
    "positive_prior": _values("positive_prior", 0.0, 0.1, 0.15, 0.2),
    "memory_start_epoch": _values("memory_start_epoch", 1, 6, 30),
    "temperature": _values("temperature", 0.2, 0.35, 0.5, 0.7),
}
CHANGES: dict[str, list[Change]] = SENSITIVITY | {
    "projection": [
        ("linear", {"projection": "linear"}),
        *((f"MLP {hidden}", {"hidden": hidden}) for hidden in (512, 1024, 2048)),
    ],
    "standardize": _values("standardize", False, True),
    "D": _values("D", 32, 64, 128),
    "optimizer": [
        *((f"Adam {lr:g}", {"optimizer": "adam", "lr": lr}) for lr in (1e-3, 2e-3, 4e-3)),
        ("SGD 0.1", {"optimizer": "sgd", "lr": 0.1}),
    ],
    "codebook_lr_scale": _values("codebook_lr_scale", 0.1, 1.0, 10.0),
    "weight_decay": _values("weight_decay", 0.0, 1e-4),
    "batch_size": _values("batch_size", 256, 512),
    "epochs": _values("epochs", 50, 100, 200),
    "cached_views": _values("cached_views", 5, 10, 20, 40),
    "codebook_init": _values("codebook_init", "random", "data"),
    "4-bit codes": [("D 64", {"nbits": 4, "D": 64}), ("D 128", {"nbits": 4, "D": 128})],
}


def differences(data: Data, bits: int, change: Settings) -> Settings:
    """What of a change differs from the default recipe, which takes all cached views there are."""
    default = default_settings(bits) | {"cached_views": data.views.shape[1]}
    return {name: value for name, value in change.items() if value != default[name]}


def changed(data: Data, cells: Cells, bits: int, seed: int, change: Settings) -> Result:
    """The result of the default recipe with a change; where nothing differs, Table 1's."""
    differs = differences(data, bits, change)
    s = default_settings(bits, **differs) | {"seed": seed}
    what = "".join(f" {name} {value}" for name, value in differs.items())
    return cells.get(f"MeCoQ{what} {bits} bits seed {seed}", s, partial(run, data, s))


def recipe(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """The changes at each number of bits; written whenever a seed is through."""
    rows: list[Result] = []
    for seed in range(seeds):
        for size in bits:
            least = changed(data, cells, size, 0, {})["held_out"] - MARGIN
            for parameter, changes in CHANGES.items():
                for value, change in changes:
                    if seed and changed(data, cells, size, 0, change)["held_out"] < least:
                        continue
                    result = changed(data, cells, size, seed, change)
                    is_default = not differences(data, size, change)
                    rows.append({"parameter": parameter, "value": value, "bits": size, "seed": seed})
                    rows[-1] |= {"default": is_default, "map": result["map"], "held_out": result["held_out"]}
        cells.write("recipe", {"k": data.k, "bits": list(bits), "seeds": seed + 1, "rows": rows})


def fig4(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Sensitivities of the positive prior and the memory's size."""
    _sensitivities("fig4", ("positive_prior", "memory_size"), data, cells, bits)


def fig5(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """All sensitivities."""
    _sensitivities("fig5", tuple(SENSITIVITY), data, cells, bits)


def _sensitivities(name: str, parameters: Sequence[str], data: Data, cells: Cells, bits: Sequence[int]) -> None:
    rows = [
        {"parameter": parameter, "value": value, "bits": size, "map": changed(data, cells, size, 0, change)["map"]}
        for size in bits
        for parameter in parameters
        for value, change in SENSITIVITY[parameter]
    ]
    cells.write(name, {"k": data.k, "rows": rows})
