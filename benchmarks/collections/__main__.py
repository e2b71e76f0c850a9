"""One recipe on many collections, against every code of FAISS, by both goals; a stopped run continues.

python -m benchmarks.collections --collection textures:FILE.tar --backbone timm:NAME --weights FILE --out OUT
"""

from __future__ import annotations

import argparse
import logging
from itertools import cycle
from pathlib import Path

from benchmarks.collections.sets import COLLECTIONS
from benchmarks.collections.systems import PRESERVED_ROWS, growth, of_one_kind, parts, preserved
from benchmarks.collections.text import of_texts
from benchmarks.paper.cells import Cells
from benchmarks.paper.data import Data, Embeddings, of_images
from benchmarks.paper.tables import faiss_threads

GOALS = {"kind": of_one_kind, "parts": parts, "growth": growth}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", required=True, help=f"NAME:ROOT, of {', '.join(COLLECTIONS)}, or text:WORDNET")
    parser.add_argument("--backbone", default="timm:mobilenetv1_100", help="frozen feature extractor")
    parser.add_argument("--weights", default="default", help="its weights: default, none, or a file")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--views", type=int, default=10, help="cached random views an image")
    parser.add_argument("--goals", nargs="+", choices=[*GOALS, "neighbors"], default=["kind", "neighbors"])
    parser.add_argument("--bytes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rows", type=int, default=PRESERVED_ROWS, help="of given embeddings that are trained on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="how many, of all sizes or of each")
    parser.add_argument("--threads", type=int, default=1, help="of training and search")
    parser.add_argument("--workers", type=int, default=-1, help="that decode images")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(arguments)
    if len(a.seeds) not in (1, len(a.bytes)):
        parser.error(f"--seeds {a.seeds}: give one number, or one for each of --bytes {a.bytes}")
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    faiss_threads(a.threads)
    name, _, root = a.collection.partition(":")
    net = {"backbone": a.backbone, "weights": a.weights, "image_size": a.image_size}
    data: Data | Embeddings
    if name == "text":
        data, net = of_texts(root), {"backbone": "tf-idf", "weights": "none", "image_size": 0}
    else:
        data = of_images(name, *COLLECTIONS[name](root), net, a.views, a.workers)
    common = {
        "collection": name, "train": len(data.xt), "queries": len(data.xq), "database": len(data.xb),
        **net, "weights": Path(net["weights"]).name,
    }  # fmt: skip
    cells = Cells(a.out, common)  # settings say how many views; baselines have none
    for goal in a.goals:
        rows = []
        for num_bytes, seeds in zip(a.bytes, cycle(a.seeds), strict=False):
            if goal == "neighbors":
                rows += preserved(data, cells, num_bytes, seeds, a.rows)
            elif isinstance(data, Data):
                rows += GOALS[goal](data, cells, num_bytes, seeds)
            else:
                parser.error(f"--goals {goal} needs images: give --goals neighbors")
            trained = {"trained_rows": min(a.rows, len(data.xb))} if goal == "neighbors" else {"views": a.views}
            title = f"{name}-{net['backbone'].rpartition(':')[2]}-{goal}"
            cells.write(title, {"k": data.k, **trained, "rows": rows})


if __name__ == "__main__":
    main()
