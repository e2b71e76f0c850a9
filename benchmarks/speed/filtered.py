"""Filtered: a search among chosen items only, beside searching all and filtering what was found.

python -m benchmarks.speed filtered [--sizes 100000 1000000] [--bytes 4] [--kinds pq pqfs ivfpq gpu]

A share of the items is chosen at random. Filtering afterwards asks the index for k / share results (at most
--most), and keeps the chosen ones. Recall@10 of both is against what the chosen items' own exhaustive scan gives,
ties counted as found; times are of the search alone. `prepare / search all` is what a new choice costs once: the
selector, or for pq and pqfs, which take none, an index of the chosen codes.
"""

from __future__ import annotations

import argparse

import faiss
import numpy as np

from benchmarks.speed.madeup import Mixture, codebooks_for, encode
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, show, use_threads
from mecoq_faiss.index import build_index
from mecoq_faiss.index.filtered import ChosenRows

WIDTH = 8  # floats an 8-bit code stands for
K = 10
SHARES = (0.001, 0.01, 0.1, 0.5)
TIE = 1e-4  # relative: FastScan rounds its scores, so those of the exact index are compared
KINDS = ("pq", "pqfs", "ivfpq", "ivfpq-all")


def made(num_bytes: int, nbits: int, n: int, nq: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codebooks, codes (n, M) and queries (nq, D) of clustered vectors."""
    mixture = Mixture(num_bytes * WIDTH, 2 * num_bytes, max(10, n // 1000))
    M = 8 * num_bytes // nbits
    books = codebooks_for(mixture, M, nbits)
    codes = np.concatenate([encode(books, x) for x, _ in mixture.blocks(n)])
    xq, _ = mixture.queries(nq)
    parts = xq.reshape(nq, M, -1)
    return books, codes, (parts / np.linalg.norm(parts, axis=2, keepdims=True)).reshape(xq.shape)


def afterwards(index: faiss.Index, xq: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """(nq, K) of what is chosen among the K / share best of all, -1 where too few are."""
    mask = np.zeros(index.ntotal, bool)
    mask[rows] = True
    _, I = index.search(xq, min(most, index.ntotal, -(-K * index.ntotal // len(rows))))
    found = np.full((len(xq), K), -1, np.int64)
    for of_query, row in zip(found, I, strict=True):
        kept = row[(row >= 0) & mask[row]][:K]
        of_query[: len(kept)] = kept
    return found


def recall(found: np.ndarray, scores: np.ndarray, kth: np.ndarray) -> float:
    """The share of places that hold an item whose exact score (nq, K) reaches the k-th best of the chosen (nq,)."""
    return float(((found >= 0) & (scores >= kth[:, None] - TIE * np.abs(kth[:, None]))).mean())


def measure(kind: str, n: int, a: argparse.Namespace) -> list[Row]:
    """A row for each share."""
    books, codes, xq = made(a.bytes, 4 if kind == "pqfs" else 8, n, a.num_queries)
    index, exact = build_index(books, codes, kind), build_index(books, codes)
    rng = np.random.default_rng(0)
    rows_of_all: list[Row] = []
    for share in SHARES:
        rows = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
        k = min(K, len(rows))
        kth = ChosenRows(exact, rows).search(xq, k)[0][:, k - 1]
        chosen = ChosenRows(index, rows)
        seconds = in_turn(
            {
                "all": lambda: index.search(xq, K),
                "afterwards": lambda rows=rows: afterwards(index, xq, rows, a.most),  # type: ignore[misc]
                "filtered": lambda chosen=chosen: chosen.search(xq, K),  # type: ignore[misc]
                "prepare": lambda rows=rows: ChosenRows(index, rows),  # type: ignore[misc]
            },
            a.repeats,
        )
        found = {"filtered": chosen.search(xq, K)[1], "afterwards": afterwards(index, xq, rows, a.most)}
        recalls = {}
        for name, I in found.items():
            vectors = exact.reconstruct_batch(np.maximum(I, 0).ravel()).reshape(*I.shape, -1)
            recalls[name] = recall(I[:, :k], np.einsum("qd,qkd->qk", xq, vectors)[:, :k], kth)
        rows_of_all.append(
            {
                "kind": kind, "n": n, "share": share, "recall filtered": recalls["filtered"],
                "recall afterwards": recalls["afterwards"],
                "filtered / afterwards": seconds["filtered"] / seconds["afterwards"],
                "filtered / search all": seconds["filtered"] / seconds["all"],
                "prepare / search all": seconds["prepare"] / seconds["all"],
            }
        )  # fmt: skip
    return rows_of_all


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, "filtered")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--bytes", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--num-queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=10_000, help="results that filtering afterwards asks for at most")
    a = parser.parse_args()
    use_threads(a.threads)
    rows: list[Row] = []
    for kind in a.kinds:
        for n in a.sizes:
            rows += measure(kind, n, a)
        show("filtered", rows)
    goals = []
    for kind, n in dict.fromkeys((row["kind"], row["n"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["n"]) == (kind, n)]
        slowest = max(row["filtered / afterwards"] for row in own)
        worst = min(row["recall filtered"] - row["recall afterwards"] for row in own)
        goals.append(goal(f"filtered / afterwards, the slowest share, {kind}, {n:,} codes", slowest, at_most=1.0))
        goals.append(goal(f"recall gained, the least of all shares, {kind}, {n:,} codes", worst, at_least=0.0))
    finish(a.out, a, goals, filtered=rows)
