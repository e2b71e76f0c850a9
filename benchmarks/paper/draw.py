"""PNG pictures of the experiments' JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.paper.data import Data

Content = dict[str, Any]
DPI = 150


def draw(name: str, out: Path, data: Data | None = None) -> Path | None:
    """Write OUT/NAME.png from OUT/NAME.json; None for an experiment without a picture. fig9 needs the images."""
    if name not in PICTURES:
        return None
    content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    figure = _fig9(content, data) if name == "fig9" and data else PICTURES[name](content)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=DPI)
    return path


def _fig2(content: Content) -> Figure:
    conditions = list(dict.fromkeys(row["condition"] for row in content["rows"]))
    panels = (("maps", "MAP, held out"), ("contrastive", "contrastive loss"), ("codeword_similarity", r"$\Omega_C$"))
    figure = Figure(figsize=(9, 2.4 * len(conditions)), layout="constrained")
    axes = figure.subplots(len(conditions), len(panels), squeeze=False)
    for row in content["rows"]:
        for axis, (key, title) in zip(axes[conditions.index(row["condition"])], panels, strict=True):
            x, y = zip(*row[key], strict=True) if key == "maps" else (range(1, len(row[key]) + 1), row[key])
            weight = row["diversity_weight"]
            style, color = ("-", "C1") if weight else ("--", "C0")
            axis.plot(x, y, style, color=color, label=rf"$\gamma$ = {weight}")
            axis.set(ylabel=title, xlabel="epoch")
    for condition, axis in zip(conditions, axes[:, 0], strict=True):
        axis.set_title(condition, loc="left", fontsize=9)
    axes[0, 0].legend()
    return figure


def _fig3(content: Content) -> Figure:
    figure = Figure(figsize=(9, 3.2 * len(content["rows"])), layout="constrained")
    axes = figure.subplots(len(content["rows"]), 2, squeeze=False)
    for row, (left, right) in zip(content["rows"], axes, strict=True):
        for (name, values), style in zip(row["drift"].items(), ("-", "--", ":"), strict=True):
            left.plot(range(1, len(values) + 1), values, style, label=name)
        left.set(title=f"{row['recipe']}: feature drift over an epoch", xlabel="epoch", yscale="log")
        for name, values in row["quantization_error"].items():
            right.plot(values, label=name)
        right.set(title=f"{row['recipe']}: quantization error", xlabel="epoch")
        left.legend()
        right.legend()
    return figure


def _sensitivities(content: Content) -> Figure:
    parameters = list(dict.fromkeys(row["parameter"] for row in content["rows"]))
    figure = Figure(figsize=(3.2 * len(parameters), 2.8), layout="constrained")
    for axis, parameter in zip(figure.subplots(1, len(parameters), squeeze=False)[0], parameters, strict=True):
        for bits in dict.fromkeys(row["bits"] for row in content["rows"]):
            mine = [row for row in content["rows"] if (row["parameter"], row["bits"]) == (parameter, bits)]
            axis.plot(range(len(mine)), [100 * row["map"] for row in mine], "o-", label=f"{bits} bits")
            axis.set_xticks(range(len(mine)), [row["value"] for row in mine])
        axis.set(xlabel=parameter, ylabel=f"MAP@{content['k']} (%)")
        axis.legend()
    return figure


def _curves(content: Content, x: str, x_title: str, y_title: str) -> Figure:
    """Precision against `x` of every system at the most bits, seed 0."""
    bits = max(content["bits"])
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axis = figure.subplots()
    rows = [row for row in content["rows"] if row["bits"] == bits and row["seed"] == 0]
    for i, row in enumerate(rows):  # the colors come around in another style
        style = ("-", "--", "-.", ":")[(i + i // 20) % 4]
        axis.plot(row[x], row["precision"], style, color=colormaps["tab20"](i % 20), label=row["system"])
    axis.set(xlabel=x_title, ylabel=y_title, title=f"{bits} bits")
    figure.legend(fontsize=8, loc="outside right center")
    return figure


def _fig8(content: Content) -> Figure:
    labels, points = np.array(content["labels"]), content["points"]
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    figure = Figure(figsize=(4.2 * len(points), 4.4), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    for axis, (name, xy) in zip(axes, points.items(), strict=True):
        xy = np.array(xy)
        for label, class_name in enumerate(content["class_names"]):
            axis.scatter(*xy[labels == label].T, s=3, color=f"C{label % 10}", label=class_name)
        axis.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=10, markerscale=3, fontsize=7)
    return figure


def _fig9(content: Content, data: Data) -> Figure:
    methods: Sequence[str] = list(content["found"])
    rows = len(content["queries"]) * len(methods)
    figure = Figure(figsize=(9, 0.85 * rows), layout="constrained")
    axes = figure.subplots(rows, 11)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    for place, axis_row in enumerate(axes):
        number, method = place // len(methods), methods[place % len(methods)]
        query = content["queries"][number]
        axis_row[0].imshow(data.queries.open(query))
        axis_row[0].set_ylabel(method, fontsize=7)
        found, relevant = content["found"][method][number], content["relevant"][method][number]
        for axis, item, hit in zip(axis_row[1:], found, relevant, strict=True):
            axis.imshow(data.database.open(item))
            axis.set_xlabel("✓" if hit else "✗", color="green" if hit else "red", labelpad=1)
    return figure


PICTURES: dict[str, Callable[..., Figure]] = {
    "fig2": _fig2,
    "fig3": _fig3,
    "fig4": _sensitivities,
    "fig5": _sensitivities,
    "fig6": lambda content: _curves(content, "recall", "recall", "precision"),
    "fig7": lambda content: _curves(content, "ranks", "n", "precision@n"),
    "fig8": _fig8,
    "fig9": _fig9,
}
