"""Evaluation: MAP, precision and recall at every rank, beside FAISS's search alone.

python -m benchmarks.speed evaluate

The limit is `index.search` of the same queries to the same depth k, in one call. Times are CPU time.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.speed.madeup import Mixture, codebooks_for, encode
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, show, use_threads
from mecoq_faiss.evaluation import evaluate_search
from mecoq_faiss.index import build_index

CLASSES, SPREAD = 10, 50  # classes of images, clusters of each


def measure(kind: str, num_bytes: int, n: int, nq: int, k: int, repeats: int) -> Row:
    nbits = 4 if kind.endswith("fs") else 8
    M = 8 * num_bytes // nbits
    mixture = Mixture(8 * num_bytes, M, CLASSES * SPREAD)
    books = codebooks_for(mixture, M, nbits)
    parts = [(encode(books, x), label % CLASSES) for x, label in mixture.blocks(n)]
    codes, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    xq, labels_q = mixture.queries(nq)
    index = build_index(books, codes, kind)
    seconds = in_turn(
        {
            "search": lambda: index.search(xq, k),
            "evaluate": lambda: evaluate_search(index, xq, labels_q % CLASSES, labels, k),
        },
        repeats,
        time.process_time,
    )
    ratio = seconds["evaluate"] / seconds["search"]
    return {"kind": kind, "bytes": num_bytes, "n": n, "queries": nq, "k": k, **seconds, "evaluate / search": ratio}


def main() -> None:
    parser = arguments(__doc__, "evaluate")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--num-queries", type=int, default=10_000)
    parser.add_argument("-k", type=int, default=1000)
    parser.add_argument("--bytes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--kinds", nargs="+", default=["pq"])
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    use_threads(a.threads)
    rows = [
        measure(kind, num_bytes, a.items, a.num_queries, a.k, a.repeats) for kind in a.kinds for num_bytes in a.bytes
    ]
    show("seconds", rows)
    goals = [
        goal(f"evaluation / search ({row['kind']}, {row['bytes']} bytes)", row["evaluate / search"], at_most=1.3)
        for row in rows
    ]
    finish(a.out, a, goals, rows=rows)
