"""The whole tuning job: the fastest index of a bundle's codes at a wanted recall, measured on the user's queries."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.bundle.embedding import embed_source
from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import ITEMS, pinned
from mecoq_faiss.bundle.items import REMOVED, items_in
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.data.sources import Source, open_source
from mecoq_faiss.index.codes import check_codes
from mecoq_faiss.index.tuner import Point, Truth, frontier, sweep, winner
from mecoq_faiss.runtime.faiss_check import simd_level

MOST_QUERIES = 1000
MOST_SCORES = 2_000_000_000  # of one exhaustive search


def tune(
    bundle: str | Path,
    queries: str | Path | Source,
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
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        `frontier` and `winner` (points as dicts; the winner is the fastest of the wanted recall, or where none reaches
        it, the most exact), `reached`, `command` that exports the winner, `exhaustive_ms`, `recall`, `k`, `queries`,
        `items`, `threads`, `simd`.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.

    Example:
        >>> from mecoq_faiss import tune
        >>> found = tune("bundle", "photos", recall=0.9)
        >>> print(found["command"])  # doctest: +ELLIPSIS
        mecoq-faiss export-index bundle --codes bundle/items.h5 --out bundle-...
    """
    bundle = Path(bundle)
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall} is out of range: choose a share above 0 and up to 1")
    with pinned(bundle) as files:  # all of one export
        manifest = files.manifest
        n = manifest["counts"]["items"]
        k = min(K_RESULTS, n) if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"k={k} is out of range: the bundle has {n} items, choose 1 to {n}")
        with items_in(files) as items:
            codes = items.codes
        encoder = encoder_in(files, device)
    try:
        check_codes(codes, encoder.model.config.M, encoder.model.config.K)
    except ValueError as error:
        raise ValueError(f"{bundle / ITEMS} does not fit its bundle ({error}): export it again") from error
    source = open_source(queries, "queries") if isinstance(queries, str | Path) else queries
    most = min(MOST_QUERIES, max(1, MOST_SCORES // n))
    source = source.subset(np.sort(np.random.default_rng(0).permutation(len(source))[:most]))
    xq, _ = embed_source(encoder, source, workers=workers)
    truth = Truth(encoder.codebooks, codes, xq, k, additive=encoder.is_additive)
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
    items = str(bundle if (bundle / REMOVED).exists() or len(list(bundle.glob("items-*.h5"))) else bundle / ITEMS)
    out = f"{bundle}-{point.kind}"
    words = ["mecoq-faiss", "export-index", str(bundle), "--codes", items, "--out", out, "--index", point.kind]
    for name, value in (("nlist", point.nlist), ("nprobe", point.nprobe), ("k-factor", point.k_factor)):
        words += [] if value is None else [f"--{name}", f"{value:g}"]
    return shlex.join(words + (["--ids", items] if own_ids else []))
