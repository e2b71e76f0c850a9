"""What a FAISS user has without learning, tuned fairly: the settings worth trying, and the choice among them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mecoq_faiss.baselines.baseline import (
    METHODS,
    METRICS,
    NBITS,
    PREPROCESSES,
    Array,
    Baseline,
    FittedBaseline,
    Method,
    finite_features,
)
from mecoq_faiss.evaluation import evaluate_neighbors, evaluate_search
from mecoq_faiss.runtime.progress import progress

__all__ = ["Baseline", "FittedBaseline", "choose", "grid"]

OPQ_WIDTHS = (32, 64, 128)


def grid(num_bytes: int, dim: int, *, opq_widths: Sequence[int] = OPQ_WIDTHS) -> list[Baseline]:
    """Every setting tried at `num_bytes` bytes a vector for features of `dim` dimensions, Flat included.

    `opq_widths` are rounded up to what the sub-quantizers divide, and those above `dim` are left out (training OPQ is
    most of the cost). OPQ is not tried on raw features: it centres them itself when it learns the rotation, so that
    by L2 the result is that of centred ones.
    """
    settings = []
    for preprocess in PREPROCESSES:
        for metric in METRICS:
            settings.append(Baseline("Flat", preprocess=preprocess, metric=metric))
            for nbits in NBITS:
                pq = Baseline("PQ", num_bytes, nbits, preprocess, metric)
                settings.append(pq)
                if preprocess != "raw":
                    widths = sorted({-(-width // pq.M) * pq.M for width in opq_widths if width <= dim})
                    settings += [replace(pq, method="OPQ", opq_width=width) for width in widths]
        settings += [Baseline("LSH", num_bytes, preprocess=preprocess)]
        settings += [Baseline("ITQ", num_bytes, preprocess=preprocess)] if 8 * num_bytes <= dim else []
    return sorted(settings, key=lambda setting: METHODS.index(setting.method))


def choose(
    settings: Sequence[Baseline],
    xt: Array,
    xb_held: Array,
    labels_held: Array | None,
    k: int,
    *,
    seed: int = 0,
    num_queries: int = 1000,
) -> tuple[dict[Method, Baseline], list[dict[str, Any]]]:
    """Each method's best setting, judged on held-out items of the database: never on the test queries.

    A seeded draw of the held-out items (at most `num_queries`, and a fifth of them) plays the queries, the rest the
    database. The score is MAP@k; without labels, recall@10 of the neighbours that the centred and normalised
    uncompressed features have.

    Args:
        settings: what to try, such as `grid(num_bytes, F)`.
        xt: (nt, F) training features.
        xb_held: (n, F) features of items that are neither in xt nor test queries.
        labels_held: (n,) classes or (n, L) 0/1 sets, or None.
        k: the cut-off of MAP; choose it in proportion to the held-out database.
        seed: of the draw and of every fit.
        num_queries: the most held-out items that play queries.

    Returns:
        The best setting by method, and for the record, best first, a dict of each setting: its `name`, `score`,
        `measure` and fields.
    """
    xb_held = finite_features(xb_held)
    n = len(xb_held)
    if n < 20 or not settings:
        raise ValueError(f"{len(settings)} settings and {n} held-out rows: give at least one setting and 20 rows")
    labels = None if labels_held is None else np.asarray(labels_held)
    if labels is not None and len(labels) != n:
        raise ValueError(f"labels for {len(labels)} of {n} held-out rows: give one label each, or None")
    order = np.random.default_rng(seed).permutation(n)
    queries, database = np.split(order, [min(num_queries, n // 5)])
    xq, xb = xb_held[queries], xb_held[database]
    measure = "recall@10" if labels is None else f"MAP@{k}"
    if labels is None:
        exact = Baseline("Flat", preprocess="centred+normalised", metric="IP").fit(xt)
        _, neighbors = exact.search(exact.index(xb), xq, 10)

    table = []
    fits: dict[Baseline, FittedBaseline] = {}
    for setting in progress(settings, total=len(settings), label="baselines", unit="setting"):
        key = replace(setting, metric="L2")
        if key not in fits:
            fits[key] = key.fit(xt, seed)
        fitted = fits[key] if setting == key else fits[key].with_metric(setting.metric)
        index, q = fitted.index(xb), fitted.transform_queries(xq)
        if labels is None:
            score = evaluate_neighbors(index, q, neighbors, 10)
        else:
            score = evaluate_search(index, q, labels[queries], labels[database], k)["map"]
        table.append((score, setting))
    table.sort(key=lambda row: -row[0])
    best: dict[Method, Baseline] = {}
    for _, setting in table:
        best.setdefault(setting.method, setting)
    rows = [{"name": s.name, "score": score, "measure": measure, **asdict(s)} for score, s in table]
    return best, rows
