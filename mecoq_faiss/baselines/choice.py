"""The fair choice among settings: each method's best on held-out items, found by successive halving."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.baselines.baseline import METRIC_FREE, Array, Baseline, FittedBaseline, Method
from mecoq_faiss.baselines.chain import Chains, finite_features
from mecoq_faiss.evaluation import evaluate_neighbors, evaluate_search
from mecoq_faiss.runtime.progress import progress

NEIGHBORS = 10


@dataclass(frozen=True)
class Round:
    """A look at all settings that are left, on less than there is.

    Attributes:
        rows: the most training rows; a setting that needs more gets what it needs.
        queries, database: the most held-out items that play each.
        effort: share of FAISS's iterations.
        keep: how many settings of each method go on; of 8-bit and 4-bit codes so many each, since few rows, which 256
            codewords fit too closely, favour the latter.
    """

    rows: int
    queries: int
    database: int
    effort: float
    keep: int


ROUNDS = (Round(4_000, 250, 2_000, 0.2, 5), Round(8_000, 500, 5_000, 0.5, 2))  # and then all of it
QUICK_ROUNDS = (Round(4_000, 250, 2_000, 0.2, 1),)


@dataclass(frozen=True)
class _Judge:
    """Held-out queries and database, and what they are judged by."""

    xq: Array
    xb: Array
    labels_q: NDArray[Any] | None
    labels_b: NDArray[Any] | None
    neighbors: NDArray[np.int64] | None
    k: int

    def score(self, fitted: FittedBaseline) -> float:
        """MAP@k, or without labels recall@10 of the neighbours."""
        index, q = fitted.index(self.xb), fitted.transform_queries(self.xq)
        if self.neighbors is not None:
            return float(evaluate_neighbors(index, q, self.neighbors, NEIGHBORS))
        assert self.labels_q is not None and self.labels_b is not None
        return float(evaluate_search(index, q, self.labels_q, self.labels_b, self.k)["map"])


def choose(
    settings: Sequence[Baseline],
    xt: Array,
    xb_held: Array,
    labels_held: Array | None,
    k: int,
    *,
    seed: int = 0,
    num_queries: int = 1000,
    rounds: Sequence[Round] = ROUNDS,
) -> tuple[dict[Method, Baseline], list[dict[str, Any]]]:
    """Each method's best setting, judged on held-out items of the database: never on the test queries.

    A seeded draw of the held-out items (at most `num_queries`, and a fifth of them) plays the queries, the rest the
    database. The score is MAP@k; without labels, recall@10 of the neighbours that the centred and normalised
    uncompressed features have. Each of `rounds` is a cheaper look at what is left, of which the best of every method go
    on; one that would leave nothing out is skipped, and so is a further one that has all rows. The last look has all
    rows, all held-out items and all iterations.

    Args:
        settings: what to try, such as `grid(num_bytes, F)`.
        xt: (nt, F) training features.
        xb_held: (n, F) features of items that are neither in xt nor test queries.
        labels_held: (n,) classes or (n, L) 0/1 sets, or None.
        k: the cut-off of MAP; choose it in proportion to the held-out database. A round with fewer scales it down.
        seed: of the draws and of every fit.
        num_queries: the most held-out items that play queries.
        rounds: cheaper looks before the last; none: every setting in full.

    Returns:
        The best setting by method, and for the record, the last round first and in each the best first, a dict of each
        setting: its `name`, `score`, `measure`, `round` (from 1; the last that it was in) and fields.
    """
    xt, xb_held = finite_features(xt), finite_features(xb_held)
    n = len(xb_held)
    if n < 20 or not settings:
        raise ValueError(f"{len(settings)} settings and {n} held-out rows: give at least one setting and 20 rows")
    labels = None if labels_held is None else np.asarray(labels_held)
    if labels is not None and len(labels) != n:
        raise ValueError(f"labels for {len(labels)} of {n} held-out rows: give one label each, or None")
    num_queries = min(num_queries, n // 5)
    everything = Round(len(xt), num_queries, n - num_queries, 1.0, len(settings))
    order, left = np.random.default_rng(seed).permutation(n), list(settings)
    rows: list[dict[str, Any]] = []
    for number, this in enumerate([*rounds, everything], start=1):
        cheaper = number == 1 or this.rows < len(xt)
        if this is not everything and not (cheaper and any(len(mine) > this.keep for mine in _rivals(left))):
            continue
        q, b = order[:num_queries][: this.queries], order[num_queries:][: this.database]
        judge = _judge(xt, xb_held, labels, q, b, min(k, max(10, round(k * len(b) / (n - num_queries)))))
        scores = _scores(left, xt, judge, this, seed, f"baselines, round {number} of {len(rounds) + 1}")
        ranked = sorted(left, key=lambda s: -scores[s])
        left = [s for mine in _rivals(ranked) for s in mine[: this.keep]]
        gone = ranked if this is everything else [s for s in ranked if s not in left]
        measure = f"recall@{NEIGHBORS}" if labels is None else f"MAP@{judge.k}"
        what = {"measure": measure, "round": number}
        rows = [{"name": s.name, "score": scores[s], **what, **asdict(s)} for s in gone] + rows
    best: dict[Method, Baseline] = {}
    for setting in ranked:
        best.setdefault(setting.method, setting)
    return best, rows


def _rivals(settings: Sequence[Baseline]) -> Collection[list[Baseline]]:
    """The settings of each method and number of bits, in their order."""
    found: dict[tuple[Method, int], list[Baseline]] = {}
    for setting in settings:
        found.setdefault((setting.method, setting.nbits), []).append(setting)
    return found.values()


def _judge(
    xt: Array, x: Array, labels: NDArray[Any] | None, q: NDArray[np.int64], b: NDArray[np.int64], k: int
) -> _Judge:
    if labels is not None:
        return _Judge(x[q], x[b], labels[q], labels[b], None, k)
    exact = Baseline("Flat", preprocess="centred+normalised", metric="IP").fit(xt)
    _, neighbors = exact.search(exact.index(x[b]), x[q], NEIGHBORS)
    return _Judge(x[q], x[b], None, None, neighbors, k)


def _scores(
    settings: Sequence[Baseline], xt: Array, judge: _Judge, this: Round, seed: int, label: str
) -> dict[Baseline, float]:
    """The score of each setting. Those that share transforms, or a fit, stand together; the groups' order is drawn."""
    rows = np.random.default_rng(seed).permutation(len(xt))[: max(this.rows, *(s.min_rows for s in settings))]
    chains = Chains(xt[np.sort(rows)])
    rng = np.random.default_rng(seed)
    place = {p: rng.random() for p in sorted({s.preprocess for s in settings})}
    ordered = sorted(settings, key=lambda s: (place[s.preprocess], s.reduce, s.reduce != "none" and s.width, s.name))
    fits = groupby(ordered, key=lambda s: replace(s, metric="L2") if s.method in METRIC_FREE else s)
    scores: dict[Baseline, float] = {}

    def each() -> Any:
        for key, group in fits:
            fitted = key.fit(chains, seed, effort=this.effort)
            for setting in group:
                scores[setting] = judge.score(fitted if setting == key else fitted.with_metric(setting.metric))
                yield setting

    for _ in progress(each(), total=len(settings), label=label, unit="setting"):
        pass
    return scores
