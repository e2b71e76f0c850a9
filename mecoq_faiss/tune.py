"""The fastest index of a bundle's codes at a wanted recall, measured on the user's own queries."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

from .bundle import ENCODER_FILES, ITEMS, pinned
from .codes import decode_codes, pair_codebooks
from .config import K_RESULTS
from .datasets import FeatureSource, ImageSource, open_source
from .embedding import embed_source
from .encoder import encoder_in
from .faisscheck import simd_level
from .index import build_index, set_search_effort, without_refiner
from .indexivf import default_nlist
from .indexpq import pq
from .shards import map_array

K_FACTORS = (2.0, 4.0, 8.0, 16.0)
REPEATS = 3
MOST_QUERIES = 1000
MOST_SCORES = 2_000_000_000  # of one exhaustive search
TIED = 1e-5  # scores this near are equal
ENOUGH = 0.9995  # a recall beyond which more effort is not tried


class Point(NamedTuple):
    """An index, how it is searched, and what was measured. Settings that its kind does not have are None."""

    kind: str
    nlist: int | None
    nprobe: int | None
    k_factor: float | None
    recall: float
    ms_per_query: float


class Truth:
    """The exhaustive scan of codes (n, M) for queries (nq, D): the k-th best score of each, and its time.

    Attributes: ms_per_query, of FAISS's fastest exact scan of these codes.
    """

    def __init__(self, codebooks: np.ndarray, codes: np.ndarray, xq: np.ndarray, k: int) -> None:
        self.codebooks, self.codes, self.xq, self.k = codebooks, codes, xq, k
        M, K, _ = codebooks.shape
        pairs = K <= 16 and M % 2 == 0  # 8-bit tables of pairs: far faster than FAISS's 4-bit IndexPQ
        self.index = pq(*pair_codebooks(codebooks, codes)) if pairs else pq(codebooks, codes)
        self.kth = self.index.search(xq, k)[0][:, -1]
        self.ms_per_query = self.time(self.index)

    def recall(self, index: faiss.Index) -> float:
        """Share of the k results of each query whose true score reaches the true k-th best: ties count as found."""
        I = index.search(self.xq, self.k)[1]
        x = decode_codes(self.codebooks, self.codes[np.maximum(I, 0).ravel()]).reshape(*I.shape, -1)
        scores = np.einsum("qd,qkd->qk", self.xq, x)
        return float(((scores >= self.kth[:, None] - TIED) & (I >= 0)).mean())

    def time(self, index: faiss.Index, clock: Callable[[], float] = time.thread_time) -> float:
        """Milliseconds a query, all queries in one call on one thread: the best of a few.

        By default the thread's CPU time, so that other programs on the machine do not count.
        """
        seconds = []
        with one_thread():
            for _ in range(REPEATS):
                started = clock()
                index.search(self.xq, self.k)
                seconds.append(clock() - started)
        return 1000 * min(seconds) / len(self.xq)


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def sweep(truth: Truth, *, nlists: Sequence[int] | None = None, kinds: Sequence[str] | None = None) -> list[Point]:
    """Measure every kind that fits the codes, over nlist, nprobe and the refine factor.

    Args:
        truth: the codes, queries and k.
        nlists: numbers of lists to try; by default the usual one and a quarter of it.
        kinds: of `index.KINDS`; by default those of the codes' bits.

    Returns:
        Points in the order of measuring. For an IVF kind nprobe doubles until recall stops growing or an exhaustive
        scan is as fast.
    """
    K, n = truth.codebooks.shape[1], len(truth.codes)
    kinds = kinds or (("pqfs", "ivfpqfs") if K == 16 else ("pq", "ivfpq"))
    if nlists is None:
        nlists = sorted({default_nlist(n), max(1, default_nlist(n) // 4)})
    points: list[Point] = []
    for kind in kinds:
        for nlist in nlists if kind.startswith("ivf") else [None]:
            options = {"refine": kind.endswith("fs"), "nlist": nlist}
            index = build_index(truth.codebooks, truth.codes, kind, **options)  # type: ignore[arg-type]
            points += _sweep_nprobe(truth, index, kind, nlist)
    return points


def _sweep_nprobe(truth: Truth, index: faiss.Index, kind: str, nlist: int | None) -> list[Point]:
    if nlist is None:
        return _sweep_factor(truth, index, kind, None, None)
    points: list[Point] = []
    for nprobe in [*(2**i for i in range((nlist - 1).bit_length())), nlist]:
        set_search_effort(index, nprobe=nprobe)
        found = _sweep_factor(truth, index, kind, nlist, nprobe)
        points += found
        if found[-1].recall >= ENOUGH or found[0].ms_per_query > truth.ms_per_query:
            break
    return points


def _sweep_factor(truth: Truth, index: faiss.Index, kind: str, nlist: int | None, nprobe: int | None) -> list[Point]:
    """Without exact scoring, then (of FastScan kinds) with more and more results scored exactly."""
    plain = without_refiner(index)
    points = [Point(kind, nlist, nprobe, None, truth.recall(plain), truth.time(plain))]
    for factor in K_FACTORS if plain is not index else ():
        set_search_effort(index, k_factor=factor)
        points.append(Point(kind, nlist, nprobe, factor, truth.recall(index), truth.time(index)))
        if points[-1].recall >= ENOUGH or points[-1].recall - points[-2].recall < 1e-3:
            break
    return points


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both recall and time, from the fastest to the most exact."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms_per_query, -p.recall)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept


def winner(points: Sequence[Point], recall: float) -> Point | None:
    """The fastest point of at least this recall, or None."""
    return min((p for p in points if p.recall >= recall), key=lambda p: p.ms_per_query, default=None)


def tune(
    bundle: str | Path,
    queries: str | Path | ImageSource | FeatureSource,
    recall: float = 0.95,
    k: int | None = None,
    *,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Measure what indexes of a bundle's stored codes find, and how fast, for the user's queries.

    Args:
        bundle: its codes and encoder are used, whatever its index is.
        queries: a source or its name; at most 1,000 of it are used (fewer on a large database), chosen by a seed.
        recall: wanted share of the k results of an exhaustive scan of the same codes, in (0, 1].
        k: results a query; by default 10, or all of a smaller bundle.
        workers, device: as in `encode`.

    Returns:
        `frontier` and `winner` (points as dicts; the winner is the fastest of the wanted recall, or where none reaches
        it, the most exact), `reached`, `command` that exports the winner, `exhaustive_ms`, `recall`, `k`, `queries`,
        `items`, `threads`, `simd`.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
    """
    bundle = Path(bundle)
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall} is out of range: choose a share above 0 and up to 1")
    with pinned(bundle, (ITEMS, *ENCODER_FILES)) as files:  # all of one export
        manifest = files.manifest
        n = manifest["counts"]["items"]
        k = min(K_RESULTS, n) if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"k={k} is out of range: the bundle has {n} items, choose 1 to {n}")
        codes, encoder = map_array(files.file(ITEMS), "codes"), encoder_in(files, device)
    source = open_source(queries, "queries") if isinstance(queries, str | Path) else queries
    most = min(MOST_QUERIES, max(1, MOST_SCORES // n))
    source = source.subset(np.sort(np.random.default_rng(0).permutation(len(source))[:most]))
    xq, _ = embed_source(encoder, source, workers=workers)
    codebooks = encoder.model.quantizer.unit_codebooks().detach().cpu().numpy()
    truth = Truth(codebooks, codes, xq, k)
    points = sweep(truth)
    best = winner(points, recall)
    chosen = best or max(points, key=lambda p: (p.recall, -p.ms_per_query))
    return {
        "frontier": [point._asdict() for point in frontier(points)],
        "winner": chosen._asdict(),
        "reached": best is not None,
        "command": _export_command(bundle, chosen, own_ids=bool(manifest.get("has_ids"))),
        "exhaustive_ms": truth.ms_per_query,
        "recall": recall,
        "k": k,
        "queries": len(xq),
        "items": n,
        "threads": 1,
        "simd": simd_level(),
    }


def _export_command(bundle: Path, point: Point, *, own_ids: bool) -> str:
    """The command that makes a bundle of the same codes with this index."""
    items = str(bundle / ITEMS)
    out = f"{bundle}-{point.kind}"
    words = ["mecoq-faiss", "export-index", str(bundle), "--codes", items, "--out", out, "--index", point.kind]
    for name, value in (("nlist", point.nlist), ("nprobe", point.nprobe), ("k-factor", point.k_factor)):
        words += [] if value is None else [f"--{name}", f"{value:g}"]
    return shlex.join(words + (["--ids", items] if own_ids else []))
