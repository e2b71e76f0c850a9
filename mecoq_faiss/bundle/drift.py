"""Do new items still fit the codebooks? Three measures of newly encoded items against those of the export."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mecoq_faiss.bundle.items import BLOCK, Items
from mecoq_faiss.index.codes import code_blocks, decode_codes, sum_codes

FEWEST = 20  # items, new or old, of which anything is said
MOST_OLD = 1 << 18  # old items that new ones are compared with
ENOUGH_OLD = 1 << 16  # where fewer of those drawn are of the export, all items are looked at
PROBES = 500  # items whose best score is looked up
NEIGHBORS, LOCAL = 30, 1 << 12  # old items that an item is beside, of at most so many old ones
LOOKED_UP = 256  # items whose neighbors are looked for at once
DRAWS = 20  # of old items, for what sampling alone gives
# What makes retraining due, found by benchmarks/drift.py: see docs/findings.md
BITS = 0.03  # of divergence
NOISES = 3  # it is to be above this many standard deviations of what sampling gives
OUTLYING = 0.48  # what the lower end of `outlying` is to be above

Decode = Callable[[np.ndarray], np.ndarray]  # codes (n, M) -> the vectors that they stand for


def measure_drift(
    codebooks: np.ndarray,
    old_codes: np.ndarray,
    old_error: np.ndarray,
    new_codes: np.ndarray,
    new_error: np.ndarray,
    seed: int = 0,
    additive: bool = False,
) -> dict[str, Any]:
    """How new items lie to the codes beside old ones.

    Args:
        codebooks: (M, K, d) float32.
        old_codes: (n, M) uint8.
        old_error: (n,) float32, see `quantization_error`.
        new_codes: (m, M) uint8.
        new_error: (m,) float32.
        seed: of the draws.
        additive: codes stand for the sums of their codewords.

    Returns:
        `new` and `old`, how many they are; `error_new` and `error_old`, the mean errors; `auc`, the chance that a new
        item's error is above an old one's (0.5: the same), within `auc_low` to `auc_high` (95 %); `divergence`, bits
        by which the use of codewords differs beyond what sampling gives, and `divergence_noise`, what chance leaves of
        it (a standard deviation); `score_new` and `score_old`, the mean best score among the old items, of an old one
        without itself; `farther`, the chance that the new one's is the lower, and `farther_low`, the lower end of its
        95 % interval.
    """
    rng = np.random.default_rng(seed)
    auc, low, high = above(new_error, old_error)
    bits, noise = divergence(old_codes, new_codes, codebooks.shape[1], rng)
    decode = partial(sum_codes if additive else decode_codes, codebooks)
    score_new, score_old = best_scores(decode, old_codes, new_codes, rng)
    farther, farther_low, _ = above(-score_new, -score_old)
    outlying, outlying_low, _ = above(*outliers(decode, old_codes, new_codes, rng))
    return {
        "new": len(new_codes),
        "old": len(old_codes),
        "error_new": float(np.mean(new_error, dtype=np.float64)),
        "error_old": float(np.mean(old_error, dtype=np.float64)),
        "auc": auc,
        "auc_low": low,
        "auc_high": high,
        "divergence": bits,
        "divergence_noise": noise,
        "score_new": float(score_new.mean()),
        "score_old": float(score_old.mean()),
        "farther": farther,
        "farther_low": farther_low,
        "outlying": outlying,
        "outlying_low": outlying_low,
    }


def verdict(drift: dict[str, Any]) -> tuple[bool, str]:
    """Whether what `measure_drift` gave calls for another training, and why, in one sentence."""
    limit = max(BITS, NOISES * drift["divergence_noise"])
    differ = f"the use of codewords differs by {drift['divergence']:.3f} bits (limit {limit:.3f})"
    chance = f"the chance that one is more of an outlier than an old one is {drift['outlying']:.2f}"
    if drift["divergence"] <= limit:
        return False, f"the new images fit the codes: {differ}"
    if drift["outlying_low"] <= OUTLYING:
        return False, f"the new images fit the codes: {differ}, but {chance}"
    unless = "unless they are all of one kind that the old ones have too"
    return True, f"retraining is due: of {drift['new']} new images {differ}, and {chance}; {unless}"


def drift_of(
    codebooks: np.ndarray,
    items: Items,
    first_new_id: int | None,
    encoded: Path,
    seed: int = 0,
    *,
    additive: bool = False,
) -> dict[str, Any] | None:
    """The drift of newly `encoded` items from those of the export, with `retrain` and its `evidence`.

    Args:
        codebooks: (M, K, d) float32.
        items: those of the bundle, before the update.
        first_new_id: items from this id on came after the export; None where there are none yet.
        encoded: the file of what is new.
        seed: of the draws.
        additive: codes stand for the sums of their codewords.

    Returns:
        What `measure_drift` gives; of fewer than 20 items only `new` or `old`, how many. None in a bundle that does
        not tell its items' errors, as those of older versions.
    """
    with h5py.File(encoded) as file:
        if "error" not in file:
            return None
        new_codes, new_error = file["codes"][:], file["error"][:]
    error = items.lazy("error")
    if error is None:
        return None
    if len(new_codes) < FEWEST:
        few = f"too few new images to judge whether they fit the codes: {len(new_codes)}, {FEWEST} are needed"
        return {"new": len(new_codes), "retrain": False, "evidence": few}
    rows = _rows_of_export(items, error, first_new_id, seed)
    if len(rows) < FEWEST:
        few = f"too few images of the export are left to judge new ones by: {len(rows)}, {FEWEST} are needed"
        return {"new": len(new_codes), "old": len(rows), "retrain": False, "evidence": few}
    codes = items.lazy("codes")
    assert codes is not None
    drift = measure_drift(codebooks, codes[rows], error[rows], new_codes, new_error, seed, additive)
    retrain, evidence = verdict(drift)
    return drift | {"retrain": retrain, "evidence": evidence}


def _rows_of_export(items: Items, error: np.ndarray, first_new_id: int | None, seed: int) -> np.ndarray:
    """Rows (m,) int64, rising, of items of the export whose error is known, at most `MOST_OLD`, by chance."""
    rng, ids = np.random.default_rng(seed), items.lazy("ids")
    assert ids is not None

    def among(rows: np.ndarray) -> np.ndarray:
        known = error[rows] > 0  # segments of older versions count as zeros
        return rows[known if first_new_id is None else known & (ids[rows] < first_new_id)]

    if len(items) > MOST_OLD:
        drawn = among(np.unique(rng.integers(0, len(items), MOST_OLD)))
        if len(drawn) >= ENOUGH_OLD:
            return drawn
    parts = [among(np.arange(low, min(len(items), low + BLOCK))) for low in range(0, len(items), BLOCK)]
    rows = np.concatenate(parts)
    return rows if len(rows) <= MOST_OLD else np.sort(rng.choice(rows, MOST_OLD, replace=False))


def above(new: np.ndarray, old: np.ndarray) -> tuple[float, float, float]:
    """The chance that one of `new` (m,) is above one of `old` (n,), ties half, and its 95 % interval.

    The interval is the normal one with the variance of Hanley and McNeil (1982), cut to 0 and 1.
    """
    ranked = np.sort(old)
    below = np.searchsorted(ranked, new, side="left") + np.searchsorted(ranked, new, side="right")
    n, m = len(old), len(new)
    a = float(below.mean() / (2 * n))
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n)
    half = 1.959964 * math.sqrt(max(variance, 0.0))
    return a, max(0.0, a - half), min(1.0, a + half)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of shares (M, K), in bits from 0 to 1, mean over the M rows."""
    return float((_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2).mean())


def divergence(old: np.ndarray, new: np.ndarray, K: int, rng: np.random.Generator) -> tuple[float, float]:
    """Bits by which the use of codewords by new codes (m, M) differs from that by old ones (n, M), and their noise.

    In each of `DRAWS` draws as many old codes are set apart as there are new ones (of more than n / 2: as n / 2), and
    their divergence from the other old codes is taken from that of the new ones: of new codes that are like the old
    ones the mean, which is returned, is 0 but for chance. The noise is the standard deviation of what is taken off.
    """
    size = min(len(new), len(old) // 2)
    total = _counts(old, K)
    found, chance = [], []
    for _ in range(DRAWS):
        apart = _counts(old[rng.choice(len(old), size, replace=False)], K)
        drawn = _counts(new[rng.choice(len(new), size, replace=False)], K)
        rest = (total - apart) / (len(old) - size)
        found.append(jensen_shannon(drawn / size, rest))
        chance.append(jensen_shannon(apart / size, rest))
    return float(np.mean(found) - np.mean(chance)), float(np.std(chance))


def best_scores(
    decode: Decode, old: np.ndarray, new: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The best AQS score among the codes `old` (n, M): of codes `new` (m, M), and of as many old ones without itself.

    Queries are what the codes stand for. At most `PROBES` of each are looked up.
    """
    if len(new) > PROBES:
        new = new[rng.choice(len(new), PROBES, replace=False)]
    rows = rng.permutation(len(old))[: len(new)]
    x = decode(np.concatenate([new, old[rows]]))
    own = np.concatenate([np.full(len(new), -1), rows])
    best = np.full(len(x), -np.inf)
    for start, block in code_blocks(old, 1 << 10):
        scores = x @ decode(block).T
        here = np.flatnonzero((own >= start) & (own < start + len(block)))
        scores[here, own[here] - start] = -np.inf
        best = np.maximum(best, scores.max(axis=1))
    return best[: len(new)], best[len(new) :]


def outliers(
    decode: Decode, old: np.ndarray, new: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How much lower the scores of an item with its nearest old ones are than theirs with their own nearest ones.

    After the local outlier factor (Breunig et al., 2000): images of one known class are many in one place, but there
    the old ones are as near to each other as the new ones to them. Codes `old` (n, M), of which `LOCAL` are drawn, and
    `new` (m, M), of which `PROBES` are; of the drawn new ones and of the drawn old ones, float32 each.
    """
    old, new = (
        codes if len(codes) <= most else codes[rng.choice(len(codes), most, replace=False)]
        for codes, most in ((old, LOCAL), (new, PROBES))
    )
    x = decode(old)
    near, score = _nearest(x, x, without_own=True)
    near_new, score_new = _nearest(decode(new), x, without_own=False)
    return score[near_new].mean(axis=1) - score_new, score[near].mean(axis=1) - score


def _nearest(x: np.ndarray, old: np.ndarray, without_own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m, k) of the k best of `old` (n, D) for each of x (m, D), and the mean of their scores (m,)."""
    k = min(NEIGHBORS, len(old) - 1)
    rows, means = [], []
    for start in range(0, len(x), LOOKED_UP):
        scores = x[start : start + LOOKED_UP] @ old.T
        if without_own:
            here = np.arange(len(scores))
            scores[here, start + here] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k].copy()  # a view would hold all of it
        rows.append(best)
        means.append(np.take_along_axis(scores, best, axis=1).mean(axis=1))
    return np.concatenate(rows), np.concatenate(means)


def _counts(codes: np.ndarray, K: int) -> np.ndarray:
    """How often each codeword occurs, (M, K) int64, in codes (n, M)."""
    return np.stack([np.bincount(column, minlength=K) for column in codes.T])


def _entropy(p: np.ndarray) -> np.ndarray:
    """In bits, over the last axis."""
    return -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
