"""Rates of this machine, into results/scale/rates.json; a stopped run continues at the first missing measurement.

python -m benchmarks.scale measure [--out DIR] [--parts encoding training building shards searching files]

Each measurement runs in fresh processes of one thread each. What would take more memory, disk or time than there is
stands under `skipped`, with the reason. `load_before` is the machine's load average before each: near 0, nothing else
ran. Linux.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import faiss

from benchmarks.paper.cells import Cells
from benchmarks.scale import building, encoding, files, searching, shards, training
from benchmarks.scale.apart import Died
from benchmarks.scale.cell import Options
from benchmarks.speed.measure import RESULTS, Row, show
from mecoq_faiss.runtime.environment import environment
from mecoq_faiss.storage.files import write_text

PARTS: dict[str, Any] = {
    "encoding": encoding,
    "training": training,
    "building": building,
    "shards": shards,
    "searching": searching,
    "files": files,
}
RATES = RESULTS / "scale" / "rates.json"
FINISHED = Path("build") / "scale"
SAME = ("python", "torch", "faiss", "numpy", "simd", "cores")  # measured under other ones, it is measured again


def measure(part: str, options: Options, finished: Cells) -> tuple[list[Row], list[Row]]:
    """The rows of one part, and what was left out."""
    rows, skipped = [], []
    for cell in PARTS[part].cells(options):
        reason = cell.lacking(options)
        if reason is None:
            try:
                where = "-".join(str(value) for value in cell.settings.values())
                rows.append(finished.get(f"{cell.name}-{where}", cell.settings, cell.measure))
                continue
            except Died as error:
                reason = str(error)
        skipped.append({"part": part, "what": cell.name, **cell.settings, "reason": reason})
    return rows, skipped


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7, 10**8], help="codes")
    parser.add_argument("--bytes", type=int, nargs="+", default=[2, 4, 8], help="of a code")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="processes side by side")
    parser.add_argument("--backbones", nargs="+", choices=list(encoding.BACKBONES), default=list(encoding.BACKBONES))
    parser.add_argument("--patience", type=float, default=30, help="seconds; what would take longer is left out")
    parser.add_argument("--divisor", type=int, default=1, help="so many times fewer images and steps, for a try")
    parser.add_argument("--folder", help="where files are made; removed afterwards")
    parser.add_argument("--finished", type=Path, default=FINISHED, help=f"finished measurements (default: {FINISHED})")
    parser.add_argument("--out", type=Path, default=RATES.parent, help="gets rates.json")
    a = parser.parse_args(arguments)
    options = Options(a.sizes, a.bytes, a.workers, a.backbones, a.folder, a.patience, a.divisor)
    faiss.omp_set_num_threads(1)  # as the processes that measure do
    machine = environment()
    finished = Cells(a.finished, {"machine": {name: machine[name] for name in SAME}, "divisor": a.divisor})
    out = a.out / "rates.json"
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"parts": {}, "skipped": []}
    a.out.mkdir(parents=True, exist_ok=True)
    for part in a.parts:
        rows, skipped = measure(part, options, finished)
        for what in dict.fromkeys(row["what"] for row in rows):
            of_kinds = [row for row in rows if row["what"] == what]
            for keys in dict.fromkeys(tuple(row) for row in of_kinds):
                show(what, [row for row in of_kinds if tuple(row) == keys])
        found["parts"][part] = rows
        found["skipped"] = [row for row in found["skipped"] if row["part"] != part] + skipped
        for row in skipped:
            print("skipped:", ", ".join(f"{name} {value}" for name, value in row.items()))
        found |= {"machine": machine, "threads": 1}
        write_text(out, json.dumps(found, indent=1) + "\n")
    print(f"\nwritten: {out}")


if __name__ == "__main__":
    main()
