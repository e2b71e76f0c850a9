"""Additive codes in a plain index: a search's time over that of product codes of the same bytes, over the codes.

python -m benchmarks.speed additive

Codes and codewords are made up: a scan's time does not depend on them. Product codes are of 16 dimensions a
segment, as the default recipe's; additive ones of as many in all, and as wide as `--objective preserve` makes them.
Processor time of one thread, of the same queries one after the other (a batch shares nothing in an exhaustive
scan).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, show, use_threads
from mecoq_faiss.index import build_index
from mecoq_faiss.presets import OBJECTIVES

K, SEGMENT, PRESERVED = 10, 16, OBJECTIVES["preserve"]["D"]
KINDS = {"pq": 8, "pqfs": 4}  # bits a code


def indexes(kind: str, num_bytes: int, n: int) -> dict[str, Any]:
    """Filled indexes of random codes, by what their codes are."""
    rng = np.random.default_rng(0)
    nbits = KINDS[kind]
    M, ksub = 8 * num_bytes // nbits, 2**nbits
    codes = rng.integers(0, ksub, (n, M), dtype=np.uint8)
    found = {}
    for name, d in {"product": SEGMENT, "additive": SEGMENT * M, f"additive, D={PRESERVED}": PRESERVED}.items():
        books = rng.normal(size=(M, ksub, d)).astype(np.float32)
        books /= np.linalg.norm(books, axis=2, keepdims=True)
        found[name] = build_index(books, codes, kind, additive=name != "product")
    return found


def main() -> None:
    """Measure all sizes."""
    parser = arguments(__doc__, "additive")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bytes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--num-queries", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    a = parser.parse_args()
    use_threads(a.threads)
    rows: list[Row] = []
    goals: list[Row] = []
    for kind in KINDS:
        for num_bytes in a.bytes:
            for n in a.sizes:
                seconds = _seconds(indexes(kind, num_bytes, n), a.num_queries, a.repeats)
                ms = {name: 1000 * s / a.num_queries for name, s in seconds.items()}
                for name in list(ms)[1:]:
                    ratio = ms[name] / ms["product"]
                    rows.append({"kind": kind, "bytes": num_bytes, "n": n, "codes": name, "ms a query": ms[name]})
                    rows[-1] |= {"product, ms a query": ms["product"], "ratio": ratio}
                    if n >= 1_000_000:
                        what = f"{kind}, {num_bytes} bytes, {n:,} codes: {name} / product"
                        goals.append(goal(what, ratio, at_most=1.15))
    show("search time", rows)
    finish(a.out, a, goals, additive=rows)


def _seconds(found: dict[str, Any], num_queries: int, repeats: int) -> dict[str, float]:
    sides = {}
    for name, index in found.items():
        xq = np.random.default_rng(1).normal(size=(num_queries, index.d)).astype(np.float32)
        sides[name] = lambda index=index, xq=xq: [index.search(xq[i : i + 1], K) for i in range(num_queries)]
    return in_turn(sides, repeats, time.process_time)


if __name__ == "__main__":
    main()
