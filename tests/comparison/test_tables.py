"""The tables: what stands in which column, by hand."""

from __future__ import annotations

from typing import Any

from mecoq_faiss.comparison.tables import at_ranks, by_rank, goal_tables


def method(**quality: Any) -> dict[str, Any]:
    sizes = {"num_bytes": 4, "search_ms": 0.5, "file_bytes": 2_500_000}
    names = {"label": "PQ", "setting": "PQ 4x8, raw, L2", "neighbours_setting": "PQ 8x4, raw, L2"}
    return names | sizes | {"score": 0.5, "deviation": None, "quality": quality}


NEAR = {"neighbours": 0.25, "neighbours_at_100": 0.75}
SIZES = {"bytes": "4", "ms/query": "0.500", "file MB": "2.50"}


def test_with_labels() -> None:
    ranks = [1, 2, 3, 4, 10]
    m = method(map=0.5, map_all=0.4, precision_at_1=0.9, ranks=ranks, precision=[0.9, 0.8, 0.7, 0.65, 0.6], **NEAR)
    goals = [{"key": "map", "winner": "PQ"}, {"key": "neighbours", "winner": None}]
    report: dict[str, Any] = {"key": "map", "measure": "MAP@10", "goals": goals, "methods": [m | {"deviation": 0.01}]}
    kind, near = goal_tables(report)
    assert (kind["goal"], kind["winner"], near["goal"], near["winner"]) == (
        "Of one kind", "PQ", "Exact neighbours", None,
    )  # fmt: skip
    cells = {"MAP@10": "0.5000 ± 0.0100", "all relevant": "0.4000", "P@1": "0.9000"}
    assert kind["rows"] == [{"label": "PQ", "setting": "PQ 4x8, raw, L2", "cells": cells | SIZES}]
    cells = {"recall@10": "0.2500", "recall@100": "0.7500"}
    assert near["rows"] == [{"label": "PQ", "setting": "PQ 8x4, raw, L2", "cells": cells}]
    table = by_rank(report | {"by_rank": at_ranks(report["methods"], "map")})
    assert table and table["names"] == ["method", "n = 1", "n = 2", "n = 3", "n = 10"]
    assert table["rows"] == [["PQ", "0.900", "0.800", "0.700", "0.600"]]


def test_without_labels() -> None:
    m = method(same_image=0.5, same_image_at={"1": 0.2, "10": 0.5, "100": 0.9}, **NEAR)
    report: dict[str, Any] = {"key": "same_image", "measure": "recall@10 of ...", "goals": [], "methods": [m]}
    copies, near = goal_tables(report)
    assert copies["rows"][0]["cells"] == {"recall@10": "0.5000", "recall@1": "0.2000", "recall@100": "0.9000"} | SIZES
    assert copies["goal"] == "Altered copies" and near["rows"][0]["cells"]["recall@10"] == "0.2500"
    table = by_rank(report | {"by_rank": at_ranks(report["methods"], "same_image")})
    assert table and table["rows"] == [["PQ", "0.200", "0.500", "0.900"]]


def test_of_features_without_labels() -> None:
    report: dict[str, Any] = {
        "key": "neighbours",
        "measure": "recall@10 of ...",
        "goals": [],
        "methods": [method(**NEAR)],
    }
    (near,) = goal_tables(report)
    assert near["rows"][0]["cells"] == {"recall@10": "0.5000", "recall@100": "0.7500"} | SIZES
    assert at_ranks(report["methods"], "neighbours") == [] and by_rank(report | {"by_rank": []}) is None


def test_the_best_of_the_same_size_is_named_rank_by_rank() -> None:
    def entry(label: str, num_bytes: int, *precision: float) -> dict[str, Any]:
        return method(ranks=[1, 10, 11], precision=precision) | {"label": label, "num_bytes": num_bytes}

    methods = [entry("MeCoQ", 4, 0.5, 0.5, 0), entry("PQ", 4, 0.4, 0.55, 0), entry("RQ", 4, 0.6, 0.3, 0),
               entry("Flat", 64, 0.9, 0.9, 0)]  # fmt: skip
    ranks = at_ranks(methods, "map")
    assert [(r["n"], r["best"], round(r["gain"], 3)) for r in ranks] == [(1, "RQ", -0.1), (10, "PQ", -0.05)]
    assert ranks[0]["values"] == [0.5, 0.4, 0.6, 0.9]
    table = by_rank({"key": "map", "methods": methods, "by_rank": ranks})
    assert (
        table
        and table["rows"][0] == ["MeCoQ", "0.500", "0.500"]
        and table["rows"][3:]
        == [
            ["Flat", "0.900", "0.900"],
            ["best of the others", "RQ", "PQ"],
            ["MeCoQ above it by", "-0.100", "-0.050"],
        ]
    )
