"""The tables of a comparison: one a goal, and rank by rank; texts, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mecoq_faiss.comparison.figures import NEIGHBORS, RECALL_AT, TABLE_RANKS
from mecoq_faiss.comparison.verdict import GOALS
from mecoq_faiss.evaluation import FIRST_RANKS

Row = dict[str, Any]


def goal_tables(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each goal its `goal` (a name), `winner` (a label, or None) and `rows`, the deciding goal first.

    A row holds a method's `label`, `setting` and `cells`, texts by the names of their columns. The first table also
    has bytes, time and size.
    """
    winners = {goal["key"]: goal["winner"] for goal in report["goals"]}
    keys = [key for key in GOALS if key in report["methods"][0]["quality"]]
    return [
        {"goal": GOALS[key], "winner": winners.get(key), "rows": [_row(report, m, key) for m in report["methods"]]}
        for key in keys
    ]


def _row(report: dict[str, Any], m: dict[str, Any], key: str) -> Row:
    deciding = key == report["key"]
    cells = dict(_figures(report, m, key))
    if deciding:
        deviation = "" if m["deviation"] is None else f" ± {m['deviation']:.4f}"
        cells[next(iter(cells))] = f"{m['score']:.4f}{deviation}"
        cells |= {
            "bytes": f"{m['num_bytes']:,}",
            "ms/query": f"{m['search_ms']:.3f}",
            "file MB": f"{m['file_bytes'] / 1e6:,.2f}",
        }
    setting = m["neighbours_setting"] if key == "neighbours" else m["setting"]
    return {"label": m["label"], "setting": setting, "cells": cells}


def _figures(report: dict[str, Any], m: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    quality = m["quality"]
    names = {"neighbours": f"recall@{NEIGHBORS}", "neighbours_at_100": "recall@100"}
    if key == "map":
        names = {"map": report["measure"], "map_all": "all relevant"}
        names |= {f"precision_at_{n}": f"P@{n}" for n in FIRST_RANKS}
    elif key == "same_image":
        at = quality["same_image_at"]
        yield from ((f"recall@{n}", f"{at[n]:.4f}") for n in ("10", "1", "100") if n in at)
        return
    yield from ((name, f"{quality[each]:.4f}") for each, name in names.items() if each in quality)


def by_rank(report: dict[str, Any]) -> dict[str, Any] | None:
    """Precision among the first n, or how often a copy's image is; None where neither was measured.

    Returns:
        `title`, `names` of the columns and `rows`, a method each.
    """
    rows = []
    for m in report["methods"]:
        q = m["quality"]
        if report["key"] == "map":
            at = dict(zip(q["ranks"], q["precision"], strict=True))
        elif report["key"] == "same_image":
            at = {int(n): value for n, value in q["same_image_at"].items()}
        else:
            return None
        shown = [n for n in (TABLE_RANKS if report["key"] == "map" else RECALL_AT) if n in at]
        rows.append([m["label"], *(f"{at[n]:.3f}" for n in shown)])
    title = {
        "map": "Precision among the first n: the share of relevant items",
        "same_image": "How often the image of an altered copy is among the first n",
    }[report["key"]]
    return {"title": title, "names": ["method", *(f"n = {n:,}" for n in shown)], "rows": rows}
