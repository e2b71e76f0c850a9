"""The Markdown page of the speed benchmarks: every figure in it comes from the JSON in `results`.

python -m benchmarks.speed page
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.measure import RESULTS
from mecoq_faiss.storage.files import write_text

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
SECTIONS = {  # result files -> what they measure
    "search-4-bytes": "Search, 4 bytes a code",
    "search-8-bytes": "Search, 8 bytes a code",
    "train": "Training: the memory's cost, the view cache, a learning backbone",
    "default-backbone": "Training with the default backbone",
    "encode": "Encoding images, answering queries",
    "onnx": "The encoder as an ONNX graph",
    "serve": "The service, default backbone",
    "serve-small": "The service, a small backbone",
    "export": "Export of stored codes",
    "filtered": "Search among chosen items",
    "additive": "Search of additive codes",
    "evaluate": "Evaluation",
}
EXPORT = {  # column -> its figure in a row of export.json; what a file lacks is left out
    "index": lambda row: row["kind"],
    "codes": lambda row: row["n"],
    "whole export, s": lambda row: row["export_s"],
    "build alone, s": lambda row: row["build_s"],
    "whole / build": lambda row: row["export_s"] / row["build_s"],
    "build rate / memcpy": lambda row: row["build_rate / memcpy"],
    "build rate / copy into fresh memory": lambda row: row["build_rate / fresh copy"],
    "write rate / plain write": lambda row: row["plain_write_s / write_s"],
}
TABLES = {
    "fine_tuning": "Steps in which the backbone learns",
    "cache": "View cache",
    "query": "One query",
    "filtered": "Each share",
    "additive": "Each size",
    "codes": "Codes by both",
    "load": "Queries a second and latencies; of direct calls a batch's",
    "times": "Times of ready views, one thread, both sides in turn",
}


def page() -> str:
    parts = [
        "# Speed\n",
        "Both sides of each ratio are measured in one run; the machines are shared, so that a ratio moves by some "
        "percent from run to run. Codes and vectors of the search and export benchmarks are made up. The bare backbone "
        "is the network as its library gives it; encoding and the view cache fold its batch norms into its "
        "convolutions, which is how they come to be faster.\n",
    ]
    for name, title in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {title}\n", _machine(content), _goals(content["goals"])]
        parts += [f"{what}:\n\n{_rows(content[key])}" for key, what in TABLES.items() if content.get(key)]
        if name == "export":
            parts += _export(content["rows"])
        parts += [f"![{p.stem}](../benchmarks/results/{p.name})\n" for p in sorted(RESULTS.glob(f"{name}*.png"))]
    return "\n".join(parts)


def _machine(content: dict[str, Any]) -> str:
    m, settings = content["machine"], content["settings"]
    backbone = f"; {settings['backbone']} at {settings['image_size']} px" if "backbone" in settings else ""
    threads = f"{m['torch_threads']} thread(s) of {m['cores']} cores"
    return f"{threads}, FAISS {m['faiss']} ({m['simd']}), torch {m['torch']}{backbone}.\n"


def _goals(goals: list[dict[str, Any]]) -> str:
    lines = [
        f"| {g['goal']} | {g['measured']:.4g} | {g['wanted']} | {'yes' if g['met'] else '**no**'} |" for g in goals
    ]
    return "\n".join(["| ratio | measured | wanted | met |", "| --- | --- | --- | --- |", *lines]) + "\n"


def _export(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rates of an export, and where its seconds go, of each index."""
    shown = [name for name, figure in EXPORT.items() if all(_has(figure, row) for row in rows)]
    yield f"Rates:\n\n{_rows([{name: EXPORT[name](row) for name in shown} for row in rows])}"
    parts = [
        {"index": row["kind"], "codes": row["n"], **row["export_parts_s"]} for row in rows if "export_parts_s" in row
    ]
    if parts:
        yield f"Seconds of each part of the whole export:\n\n{_rows(parts)}"


def _has(figure: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> bool:
    try:
        figure(row)
    except KeyError:
        return False
    return True


def _rows(rows: list[dict[str, Any]] | dict[str, Any]) -> str:
    rows = rows if isinstance(rows, list) else [rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_text, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    write_text(PAGE, page())
    print(PAGE)
