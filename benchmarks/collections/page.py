"""The page of the collections: every figure in it comes from the JSON in `results/collections`.

python -m benchmarks.collections.page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.measure import RESULTS
from mecoq_faiss.storage.files import write_text

FOLDER = RESULTS / "collections"
PAGE = Path(__file__).parents[2] / "docs" / "collections.md"
OWN = (
    "learned", "learned, additive", "learned, fine", "learned, fine, additive", "learned, 4-bit",
    "learned, 4-bit, additive", "preserve",
)  # fmt: skip
INTRODUCTION = """\
The default recipe (`train` without a setting but the size) and `--objective preserve` on each collection, beside
the best of FAISS's codes of the same size *for each figure*: of PQ, OPQ, RQ, LSQ, PRQ, PLSQ, RaBitQ, ITQ and LSH,
each with the setting of `compare --quick` that is best on held-out items. That choice among methods is made on the
test queries, in FAISS's favour. `fine` is `--objective fine`, for fifty kinds and more; without another setting its
codes are additive. Baselines train on as many images, or rows, as the learned codes. Several seeds are
shown as mean ± standard deviation.
"""
Row = dict[str, Any]
Figures = Mapping[str, tuple[str, str | None]]
SHOWN: Figures = {"MAP": ("map", None), "P@1": ("precision_at", "1"), "P@10": ("precision_at", "10")}
RECALLS: Figures = {"recall@10": ("recall_at", "10"), "recall@100": ("recall_at", "100")}
GOALS = {
    "kind": "Of one kind",
    "neighbors": "Given embeddings: their ten exact neighbors",
    "growth": "Of one kind, by the number of images that are trained on",
}
TITLES = {
    "cifar10-i": "CIFAR-10 (I), trained on the whole database",
    "cifar10-ii": "CIFAR-10 (II), ten classes",
    "imagenet200": "200 classes of ImageNet, 32 pixels",
    "uneven": "100 uneven classes of ImageNet, 32 pixels",
    "fifty": "50 classes of ImageNet, 32 pixels",
    "five": "Five classes of ImageNet, 32 pixels",
    "few": "500 images of ten classes of ImageNet, 32 pixels",
    "textures": "Ten textures (DTD)",
    "digits": "Handwritten digits, 8 pixels",
    "text": "Definitions in WordNet, as TF-IDF reduced to 256 dimensions",
}


def page() -> str:
    """The text; what has not been run is left out."""
    parts = ["# Codes on collections of many kinds\n", INTRODUCTION]
    for name, title in TITLES.items():
        files = [path for goal in GOALS for path in sorted(FOLDER.glob(f"{name}-*-{goal}.json"))]
        if files:
            parts.append(f"## {title}\n")
        for path in files:
            content = json.loads(path.read_text(encoding="utf-8"))
            goal = path.stem.rpartition("-")[2]
            table = _growth if goal == "growth" else _table
            parts += [_what(content, goal), table(content["rows"], RECALLS if goal == "neighbors" else SHOWN)]
    return "\n".join(parts)


def _what(content: Row, goal: str) -> str:
    if goal == "neighbors":
        return (
            f"**{GOALS[goal]}**, centred and normalised features of {content['backbone']}; {content['queries']:,} "
            f"queries, {content['database']:,} in the database, {content['trained_rows']:,} of them trained on.\n"
        )
    return (
        f"**{GOALS[goal]}**; {content['backbone']} at {content['image_size']} px, {content['views']} views of "
        f"{content['train']:,} images, {content['queries']:,} queries, {content['database']:,} in the database; "
        f"MAP@{content['k']:,}.\n"
    )


def _growth(rows: Sequence[Row], figures: Figures) -> str:
    """Of each number of images that the learned codes were trained on."""
    lines = [f"| bytes | images | codes | {' | '.join(figures)} |", f"|---|---|---|{'---|' * len(figures)}"]
    for size, count in sorted({(row["bytes"], row["images"]) for row in rows}):
        mine = [row for row in rows if (row["bytes"], row["images"]) == (size, count)]
        lines += [line.replace(f"| {size} |", f"| {size} | {count:,} |", 1) for line in _lines(mine, size, figures)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], figures: Figures) -> str:
    lines = [f"| bytes | codes | {' | '.join(figures)} |", f"|---|---|{'---|' * len(figures)}"]
    for size in sorted({row["bytes"] for row in rows}):
        lines += _lines([row for row in rows if row["bytes"] == size], size, figures)
    return "\n".join(lines) + "\n"


def _lines(rows: Sequence[Row], size: int, figures: Figures) -> Iterator[str]:
    for system in OWN:
        mine = [row for row in rows if row["system"] == system]
        if mine:
            means = (_mean([_of(row, f) for row in mine]) for f in figures.values())
            yield f"| {size} | {system} | {' | '.join(means)} |"
    baselines = [row for row in rows if row["system"] not in (*OWN, "Flat")]
    if not baselines:
        return
    best = [max(baselines, key=lambda row: _of(row, f)) for f in figures.values()]
    found = [f"{_shown(_of(row, f))} ({row['system']})" for row, f in zip(best, figures.values(), strict=True)]
    yield f"| {size} | best of FAISS | {' | '.join(found)} |"


def _of(row: Row, figure: tuple[str, str | None]) -> float:
    name, at = figure
    return row[name] if at is None else row[name][at]


def _mean(values: Sequence[float]) -> str:
    return _shown(float(np.mean(values))) + (f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _shown(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    write_text(PAGE, page())
