"""Search: one trained model's codes in every FAISS kind, at equal bytes, on one thread.

python -m benchmarks.speed search [--sizes 1000000 10000000] [--bytes 4 8] [--bundle BUNDLE --queries SRC]

`pq` scans 8-bit codes, `pqfs` and `ivfpqfs` 4-bit codes of the same vectors and as many bytes. Recall@10 (overlap) is
against the exhaustive scan of the same codes, ties counted as found. The limit is memory bandwidth: the rate at
which codes are scanned, beside memcpy's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.speed.madeup import Mixture, codebooks_for, encode
from benchmarks.speed.measure import Row, arguments, copy_rate, finish, goal, in_turn, plot, show, use_threads
from mecoq_faiss.evaluation import evaluate_search
from mecoq_faiss.index import build_index, save_index
from mecoq_faiss.index.build import GPU_M
from mecoq_faiss.index.tuner import Point, Truth, frontier, sweep, winner
from mecoq_faiss.jobs.tune import tune

WIDTH = 8  # floats an 8-bit code stands for
K = 10
OVERLAP, RECALL = 0.95, 0.9
PAIRS = 5
MAP_K = 1000


class Codes:
    """Clustered vectors as 8-bit and as 4-bit codes of the same bytes."""

    def __init__(self, num_bytes: int, n: int, clusters: int, nq: int) -> None:
        mixture = Mixture(num_bytes * WIDTH, 2 * num_bytes, clusters)
        shapes = {8: num_bytes, 4: 2 * num_bytes}
        self.books = {nbits: codebooks_for(mixture, M, nbits) for nbits, M in shapes.items()}
        self.codes = {nbits: np.empty((n, M), np.uint8) for nbits, M in shapes.items()}
        self.labels = np.empty(n, np.int64)
        start = 0
        for x, label in mixture.blocks(n):
            rows = slice(start, start + len(x))
            self.labels[rows] = label
            for nbits, books in self.books.items():
                self.codes[nbits][rows] = encode(books, x)
            start += len(x)
        self.xq, self.labels_q = mixture.queries(nq)

    def truth(self, nbits: int) -> Truth:
        xq = self.xq.reshape(len(self.xq), len(self.books[nbits]), -1)
        xq = xq / np.linalg.norm(xq, axis=2, keepdims=True)
        return Truth(self.books[nbits], self.codes[nbits], xq.reshape(self.xq.shape), K)


def hand_made(books: np.ndarray, codes: np.ndarray) -> faiss.IndexPQ:
    """IndexPQ as one writes it without this package."""
    M, ksub, d = books.shape
    index = faiss.IndexPQ(M * d, M, ksub.bit_length() - 1, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(books.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(codes)
    return index


def of_bundle(truth: Truth, repeats: int) -> float:
    """Time of `pq` as read from a bundle's file, over the time of a hand-made IndexPQ with the same codes.

    The median over pairs that are made anew: where in memory an index comes to lie moves its time by some percent.
    """
    xq = truth.xq[: max(5, 200_000_000 // len(truth.codes))]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        save_index(build_index(truth.codebooks, truth.codes), path)
        for _ in range(PAIRS):
            ours, theirs = faiss.read_index(str(path)), hand_made(truth.codebooks, truth.codes)
            sides = {"ours": lambda i=ours: i.search(xq, K), "theirs": lambda i=theirs: i.search(xq, K)}  # type: ignore[misc]
            seconds = in_turn(sides, repeats, time.process_time)
            ratios.append(seconds["ours"] / seconds["theirs"])
    return float(np.median(ratios))


def gpu_ms(truth: Truth) -> float | None:
    """Milliseconds a query of the same 8-bit codes by FAISS's own search on a GPU, where there is one."""
    M, _, _ = truth.codebooks.shape
    if not getattr(faiss, "get_num_gpus", int)() or M not in GPU_M:
        return None
    options = faiss.GpuClonerOptions()
    options.useFloat16 = M >= 56
    index = build_index(truth.codebooks, truth.codes, "ivfpq-all")
    return truth.time(faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options), time.perf_counter)


def map_loss(codes: Codes, truth: Truth, point: Point) -> float:
    """Points of MAP that a FastScan index loses to the exact scan of the same codes."""
    options: dict[str, Any] = {} if point.k_factor is None else {"refine": True, "k_factor": point.k_factor}
    index = build_index(truth.codebooks, truth.codes, point.kind, **options)
    k = min(MAP_K, len(truth.codes) // 2)
    exact, found = (evaluate_search(i, truth.xq, codes.labels_q, codes.labels, k)["map"] for i in (truth.index, index))
    return 100 * (exact - found)


def measure(num_bytes: int, n: int, a: argparse.Namespace) -> tuple[list[Row], list[Row], Row]:
    """Rows of all points, goals, and the summary of one size."""
    codes = Codes(num_bytes, n, max(10, n // a.cluster_size), a.num_queries)
    nlist = a.nlist or max(1, min(4096, int(n**0.5)))
    eight, four = codes.truth(8), codes.truth(4)
    points = [Point("pq", None, None, None, 1.0, eight.ms_per_query), *sweep(four, nlists=[nlist])]
    ratio = of_bundle(eight, a.repeats)
    flat = winner([p for p in points if p.kind == "pqfs"], OVERLAP)
    ivf = winner([p for p in points if p.kind == "ivfpqfs"], RECALL)
    pq, where = eight.ms_per_query, f"{num_bytes} bytes, {n} codes"
    goals = [goal(f"pq, time through a bundle / hand-made ({where})", ratio, at_most=1.02)]
    summary: Row = {"bytes": num_bytes, "n": n, "nlist": nlist, "pq_ms": pq, "pq_4bit_exact_ms": four.ms_per_query}
    on_gpu = gpu_ms(eight)
    if on_gpu is not None:
        summary["gpu_ms"] = on_gpu
    if flat is not None:
        lost = map_loss(codes, four, flat)
        summary |= {"pqfs_ms": flat.ms_per_query, "pqfs_overlap": flat.recall, "pqfs_k_factor": flat.k_factor}
        summary |= {"pqfs_map_points_lost": lost, "pqfs_codes_per_memcpy": n * num_bytes / flat.ms_per_query * 1e3}
        if n >= 1_000_000:
            faster = pq / flat.ms_per_query
            goals.append(goal(f"pqfs at overlap@10 {flat.recall:.3f} / pq ({where})", faster, at_least=6))
        goals.append(goal(f"pqfs, points of MAP lost to its exact scan ({where})", lost, at_most=0.3))
    if ivf is not None:
        ratio = pq / ivf.ms_per_query
        summary |= {"ivfpqfs_ms": ivf.ms_per_query, "ivfpqfs_recall": ivf.recall, "ivfpqfs_nprobe": ivf.nprobe}
        if n >= 10_000_000:
            goals.append(goal(f"ivfpqfs at recall@10 {ivf.recall:.3f} / pq ({where})", ratio, at_least=30))
    rows = [{"bytes": num_bytes, "n": n, **p._asdict(), "times_pq": pq / p.ms_per_query} for p in points]
    return rows, goals, summary


def main() -> None:
    parser = arguments(__doc__, "search")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--bytes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--num-queries", type=int, default=100)
    parser.add_argument("--cluster-size", type=int, default=1000, help="vectors a cluster of the mixture")
    parser.add_argument("--nlist", type=int, help="default: sqrt(n), at most 4096")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--bundle", help="real codes: a bundle ...")
    parser.add_argument("--queries", help="... and queries for it")
    a = parser.parse_args()
    use_threads(a.threads)
    rate = copy_rate()
    points: list[Row] = []
    goals: list[Row] = []
    summaries: list[Row] = []
    for num_bytes in a.bytes:
        for n in a.sizes:
            rows, met, summary = measure(num_bytes, n, a)
            if "pqfs_codes_per_memcpy" in summary:
                summary["pqfs_codes_per_memcpy"] /= rate
            show(f"{num_bytes} bytes a code, {n} codes: the frontier", [r for r in rows if _best(r, rows)])
            points, goals, summaries = points + rows, goals + met, [*summaries, summary]
    real = tune(a.bundle, a.queries, RECALL, K) if a.bundle else None
    if real is not None:
        show("real codes: the frontier", real["frontier"])
    curves = {}
    for s in summaries:
        for kind in ("pq", "pqfs", "ivfpqfs"):
            here = [p for p in points if (p["bytes"], p["n"], p["kind"]) == (s["bytes"], s["n"], kind)]
            best = frontier([Point(*(p[f] for f in Point._fields)) for p in here])
            if s["n"] == max(a.sizes):
                curves[f"{kind}, {s['bytes']} bytes"] = [1e3 / p.ms_per_query for p in best], [p.recall for p in best]
    plot(a.out.with_suffix(".png"), curves, "queries a second, one thread", f"recall@{K}, {max(a.sizes)} codes", "x")
    costs = {
        f"{kind}, {b} bytes": ([s["n"] for s in mine], [s[f"{kind}_ms"] for s in mine])
        for b in a.bytes
        for kind in ("pq", "pqfs", "ivfpqfs")
        if (mine := [s for s in summaries if s["bytes"] == b and f"{kind}_ms" in s])
    }
    plot(a.out.with_name(a.out.stem + "-cost.png"), costs, "codes", "ms a query, one thread")
    finish(a.out, a, goals, memcpy_bytes_per_second=rate, summary=summaries, points=points, real=real)


def _best(row: Row, rows: list[Row]) -> bool:
    return not any(r["recall"] >= row["recall"] and r["ms_per_query"] < row["ms_per_query"] for r in rows)
