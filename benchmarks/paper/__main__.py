"""The paper's experiments, and the search for the default recipe, each one command; a stopped one continues.

python -m benchmarks.paper table1 --data cifar10-ii:ROOT --backbone timm:mobilenetv1_100 --weights FILE --out OUT
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from benchmarks.paper import figures, recipe, tables
from benchmarks.paper.cells import Cells
from benchmarks.paper.data import Data, load
from benchmarks.paper.draw import draw
from benchmarks.paper.pages import write_page

Experiment = Callable[[Data, Cells, list[int], int], None]


def fig6(data: Data, cells: Cells, bits: list[int], seeds: int) -> None:
    """Precision-recall curves, from Table 1's cells."""
    _of_table1("fig6", data, cells, bits)


def fig7(data: Data, cells: Cells, bits: list[int], seeds: int) -> None:
    """Precision among the first n, from Table 1's cells."""
    _of_table1("fig7", data, cells, bits)


def _of_table1(name: str, data: Data, cells: Cells, bits: list[int]) -> None:
    keep = ("system", "bits", "seed", "setting", "map", "ranks", "precision", "recall")
    rows = [{key: row[key] for key in keep} for row in tables.table1_rows(data, cells, [max(bits)], seed=0)]
    cells.write(name, {"k": data.k, "bits": [max(bits)], "rows": rows})


EXPERIMENTS: dict[str, Experiment] = {
    "table1": tables.table1,
    "rivals": tables.rivals,
    "table2": tables.table2,
    "variants": tables.variants,
    "table3": tables.table3,
    "fig2": figures.fig2,
    "fig3": figures.fig3,
    "fig4": recipe.fig4,
    "fig5": recipe.fig5,
    "fig6": fig6,
    "fig7": fig7,
    "fig8": figures.fig8,
    "fig9": figures.fig9,
    "recipe": recipe.recipe,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", choices=[*sorted(EXPERIMENTS), "all"])
    parser.add_argument("--data", required=True, help="NAME:ROOT of a protocol with labels, such as cifar10-ii:ROOT")
    parser.add_argument("--backbone", default="timm:mobilenetv1_100", help="frozen feature extractor")
    parser.add_argument("--weights", default="default", help="its weights: default, none, or a file")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--views", type=int, default=40, help="cached random views an image")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--queries", type=int, help="search with a seeded sample of so many")
    parser.add_argument("--threads", type=int, default=1, help="of training and search")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    tables.faiss_threads(a.threads)
    data = load(a.data, a.backbone, a.weights, a.image_size, a.views, max_queries=a.queries)
    common = {
        "data": data.name,
        "train": len(data.views),
        "queries": len(data.xq),
        "database": len(data.xb),
        "backbone": a.backbone,
        "weights": Path(a.weights).name,
        "image_size": a.image_size,
        "views": a.views,
    }
    cells = Cells(a.out, common)
    for name in EXPERIMENTS if "all" in a.experiments else a.experiments:
        EXPERIMENTS[name](data, cells, a.bits, a.seeds)
        draw(name, a.out, data)
        write_page(a.out)
        print(f"{name}: {a.out}/{name}.json", flush=True)


if __name__ == "__main__":
    main()
