"""The tables of a comparison: one a goal, and rank by rank; texts, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mecoq_faiss.comparison.contenders import LEARNED
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


def at_ranks(methods: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Precision among the first n, or how often a copy's image is, beside the baseline that is best at that very n.

    Args:
        methods: as in report.json, the learned codes first; those of other sizes are no rivals.
        key: the deciding figure's; of exact neighbours nothing is measured rank by rank.

    Returns:
        Of each rank its `n`, the methods' `values` in their order, and where there is a rival its label (`best`) and
        what the learned codes have above it (`gain`).
    """
    if key == "neighbours":
        return []
    ranks = TABLE_RANKS if key == "map" else RECALL_AT
    curves = [_curve(m["quality"], key) for m in methods]
    rivals = [i for i, m in enumerate(methods) if i and m["num_bytes"] == methods[0]["num_bytes"]]
    found = []
    for n in (n for n in ranks if n in curves[0]):
        row: dict[str, Any] = {"n": n, "values": [float(curve[n]) for curve in curves]}
        if rivals:
            best = max(rivals, key=row["values"].__getitem__)
            row |= {"best": methods[best]["label"], "gain": row["values"][0] - row["values"][best]}
        found.append(row)
    return found


def _curve(quality: dict[str, Any], key: str) -> dict[int, float]:
    if key == "map":
        return dict(zip(quality["ranks"], quality["precision"], strict=True))
    return {int(n): value for n, value in quality["same_image_at"].items()}


def by_rank(report: dict[str, Any]) -> dict[str, Any] | None:
    """The report's `by_rank` as a table; None where there is none.

    Returns:
        `title`, `names` of the columns and `rows`: a method each, then the best of the same size, and by how much the
        learned codes are above it.
    """
    ranks = report["by_rank"]
    if not ranks:
        return None
    rows = [[m["label"], *(f"{r['values'][i]:.3f}" for r in ranks)] for i, m in enumerate(report["methods"])]
    if "best" in ranks[0]:
        rows.append(["best of the others", *(r["best"] for r in ranks)])
        rows.append([f"{LEARNED} above it by", *(f"{r['gain']:+.3f}" for r in ranks)])
    title = {
        "map": "Precision among the first n: the share of relevant items",
        "same_image": "How often the image of an altered copy is among the first n",
    }[report["key"]]
    return {"title": title, "names": ["method", *(f"n = {r['n']:,}" for r in ranks)], "rows": rows}
