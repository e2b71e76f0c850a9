"""The fair choice among settings: each method's best on held-out items, found by successive halving."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.baselines.baseline import METRIC_FREE, Array, Baseline, FittedBaseline, Method
from mecoq_faiss.baselines.chain import Chains, finite_features
from mecoq_faiss.baselines.grid import EXACT
from mecoq_faiss.evaluation import evaluate_neighbors, evaluate_search
from mecoq_faiss.runtime.progress import progress

NEIGHBORS = 10

Goal = Literal["map", "neighbours"]


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


ROUNDS = (Round(4_000, 250, 2_000, 0.2, 8), Round(8_000, 500, 5_000, 0.5, 2))  # and then all of it
QUICK_ROUNDS = (Round(4_000, 250, 2_000, 0.2, 1),)


@dataclass(frozen=True)
class _Judge:
    """Held-out queries and database, and what they are judged by; labels or neighbours are None where no goal is."""

    goals: Sequence[Goal]
    xq: Array
    xb: Array
    labels_q: NDArray[Any] | None
    labels_b: NDArray[Any] | None
    neighbors: NDArray[np.int64] | None
    k: int

    def scores(self, fitted: FittedBaseline) -> list[float]:
        """One for each goal: MAP@k, or recall@10 of the neighbours."""
        index, q = fitted.index(self.xb), fitted.transform_queries(self.xq)
        found = {}
        if self.neighbors is not None:
            found["neighbours"] = evaluate_neighbors(index, q, self.neighbors, NEIGHBORS)
        if self.labels_q is not None and self.labels_b is not None:
            found["map"] = evaluate_search(index, q, self.labels_q, self.labels_b, self.k)["map"]
        return [float(found[goal]) for goal in self.goals]


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
    """Each method's best setting by MAP@k, or without labels by recall@10; the arguments are those of `choose_for`."""
    goal: Goal = "neighbours" if labels_held is None else "map"
    best, rows = choose_for(
        [goal], settings, xt, xb_held, labels_held, k, seed=seed, num_queries=num_queries, rounds=rounds
    )
    return best[goal], rows


def choose_for(
    goals: Sequence[Goal],
    settings: Sequence[Baseline],
    xt: Array,
    xb_held: Array,
    labels_held: Array | None,
    k: int,
    *,
    seed: int = 0,
    num_queries: int = 1000,
    rounds: Sequence[Round] = ROUNDS,
    metric: str = "aqs",
) -> tuple[dict[Goal, dict[Method, Baseline]], list[dict[str, Any]]]:
    """Each method's best setting for each goal, judged on held-out items of the database: never on the test queries.

    A seeded draw of the held-out items (at most `num_queries`, and a fifth of them) plays the queries, the rest the
    database. The score is MAP@k (`map`), or recall@10 of the neighbours that the uncompressed features have by `metric`
    (`neighbours`). Each of `rounds` is a cheaper look at what is left, of which the best of every method
    by each goal go on; one that would leave nothing out is skipped, and so is a further one that has all rows. The last
    look has all rows, all held-out items and all iterations.

    Args:
        goals: `map` (which needs labels), `neighbours`, or both, of which each fit then serves.
        settings: what to try, such as `grid(num_bytes, F)`.
        xt: (nt, F) training features.
        xb_held: (n, F) features of items that are neither in xt nor test queries.
        labels_held: (n,) classes or (n, L) 0/1 sets; or None, where MAP is no goal.
        k: the cut-off of MAP; choose it in proportion to the held-out database. A round with fewer scales it down.
        seed: of the draws and of every fit.
        num_queries: the most held-out items that play queries.
        rounds: cheaper looks before the last; none: every setting in full.
        metric: a model's; of `aqs` neighbours are those of the centred and normalised features.

    Returns:
        For each goal the best setting by method, and for the record, the last round first and in each the best first,
        a dict of each setting: its `name`, `score` and `measure` by the first goal, of a further one `also` and
        `also_measure`, `round` (from 1; the last that it was in) and fields.
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
        cut = min(k, max(10, round(k * len(b) / (n - num_queries))))
        judge = _judge(goals, xt, xb_held, labels, q, b, cut, metric)
        scores = _scores(left, xt, judge, this, seed, f"baselines, round {number} of {len(rounds) + 1}")
        ranked = [sorted(left, key=lambda s, i=i: -scores[s][i]) for i in range(len(goals))]  # type: ignore[misc]
        going = {s for each in ranked for mine in _rivals(each) for s in mine[: this.keep]}
        left = [s for s in ranked[0] if s in going]
        gone = ranked[0] if this is everything else [s for s in ranked[0] if s not in going]
        names = [f"MAP@{judge.k}" if goal == "map" else f"recall@{NEIGHBORS}" for goal in goals]
        rows = [_row(s, scores[s], names, number) for s in gone] + rows
    best: dict[Goal, dict[Method, Baseline]] = {goal: {} for goal in goals}
    for goal, each in zip(goals, ranked, strict=True):
        for setting in each:
            best[goal].setdefault(setting.method, setting)
    return best, rows


def _row(setting: Baseline, scores: Sequence[float], names: Sequence[str], number: int) -> dict[str, Any]:
    further = {"also": scores[1], "also_measure": names[1]} if len(names) > 1 else {}
    what = {"name": setting.name, "score": scores[0], "measure": names[0], **further, "round": number}
    return what | asdict(setting)


def _rivals(settings: Sequence[Baseline]) -> Collection[list[Baseline]]:
    """The settings of each method and number of bits, in their order."""
    found: dict[tuple[Method, int], list[Baseline]] = {}
    for setting in settings:
        found.setdefault((setting.method, setting.nbits), []).append(setting)
    return found.values()


def _judge(
    goals: Sequence[Goal],
    xt: Array,
    x: Array,
    labels: NDArray[Any] | None,
    q: NDArray[np.int64],
    b: NDArray[np.int64],
    k: int,
    metric: str,
) -> _Judge:
    neighbors = labels_q = labels_b = None
    if "neighbours" in goals:
        exact = EXACT[metric].fit(xt)
        _, neighbors = exact.search(exact.index(x[b]), x[q], NEIGHBORS)
    if "map" in goals:
        assert labels is not None
        labels_q, labels_b = labels[q], labels[b]
    return _Judge(goals, x[q], x[b], labels_q, labels_b, neighbors, k)


def _scores(
    settings: Sequence[Baseline], xt: Array, judge: _Judge, this: Round, seed: int, label: str
) -> dict[Baseline, list[float]]:
    """The scores of each setting, one a goal.

    Those that share transforms, or a fit, stand together; the groups' order is drawn.
    """
    rows = np.random.default_rng(seed).permutation(len(xt))[: max(this.rows, *(s.min_rows for s in settings))]
    chains = Chains(xt[np.sort(rows)])
    rng = np.random.default_rng(seed)
    place = {p: rng.random() for p in sorted({s.preprocess for s in settings})}
    ordered = sorted(settings, key=lambda s: (place[s.preprocess], s.reduce, s.reduce != "none" and s.width, s.name))
    fits = groupby(ordered, key=lambda s: replace(s, metric="L2") if s.method in METRIC_FREE else s)
    scores: dict[Baseline, list[float]] = {}

    def each() -> Any:
        for key, group in fits:
            fitted = key.fit(chains, seed, effort=this.effort)
            for setting in group:
                scores[setting] = judge.scores(fitted if setting == key else fitted.with_metric(setting.metric))
                yield setting

    for _ in progress(each(), total=len(settings), label=label, unit="setting"):
        pass
    return scores
