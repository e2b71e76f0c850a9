"""Which codes to use for which goal, in words: a difference decides only where its 95 % interval leaves out 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.comparison.contenders import LEARNED
from mecoq_faiss.comparison.figures import Task

SEED = 0
RESAMPLES = 2000
GOALS = {"map": "Of one kind", "same_image": "Altered copies", "neighbours": "Exact neighbours"}  # by their measures
OBJECTIVE = "altered copies are what the learned codes are trained to find"
IF_MEANT = "if that is what similar means in your application, take these codes, or train with --objective preserve"

Samples = Sequence[NDArray[np.float64]]
Comparison = dict[str, Any]


def interval(a: Samples, b: Samples) -> tuple[float, float]:
    """95 % interval of the difference of two methods' means, a - b.

    It is the percentile bootstrap over the queries, which both answered; with several seeds, 1.96 deviations of a
    difference of means over the seeds are added in quadrature. One query says nothing: [-1, 1], all there is.

    Args:
        a: for each seed the values (nq,), in [0, 1], of the first method.
        b: those of the second, of the same queries.
    """
    d = np.mean(a, axis=0) - np.mean(b, axis=0)
    if len(d) < 2:
        return -1.0, 1.0
    rng = np.random.default_rng(SEED)
    means = [d[rng.integers(0, len(d), len(d))].mean() for _ in range(RESAMPLES)]
    gain, (low, high) = d.mean(), np.percentile(means, (2.5, 97.5))
    if len(a) > 1:
        deviations = [np.std([values.mean() for values in seeds], ddof=1) for seeds in (a, b)]
        spread = 1.96 * np.hypot(*deviations) / np.sqrt(len(a))
        low, high = gain - np.hypot(gain - low, spread), gain + np.hypot(high - gain, spread)
    return float(low), float(high)


def verdict(methods: Sequence[dict[str, Any]], task: Task, num_bytes: int) -> dict[str, Any]:
    """Which of the methods of `num_bytes` bytes to use for each goal, and why.

    Args:
        methods: the learned codes first. Of each its `label`, `setting`, `num_bytes`, `per_query`: for each key of
            `task.measures` a list of every seed's values (nq,), and where its neighbours were found by another setting
            the `neighbours_setting`.
        task: what was asked; the first of its measures decides.
        num_bytes: bytes a code; methods of other sizes are left out.

    Returns:
        `measure` and `key` of the deciding figure, `winner` (a label, or None) and `verdict`, a line a goal; in `goals`
        of each its `goal` (a name), `key`, `winner` and `advice`. Where there is a rival of this size also its setting
        (`rival`), the deciding `gain` and `interval` (low, high), and in `comparisons` the same of each measure, each
        with the rival that is best by it (its label is `method`) and both figures (`learned`, `best`).
    """
    (key, name), *_ = task.measures.items()
    found: dict[str, Any] = {"measure": name, "key": key, "winner": None, "goals": []}
    learned, others = methods[0], [m for m in methods[1:] if m["num_bytes"] == num_bytes]
    if not others:
        return found | {"verdict": "Nothing of the same size was compared."}

    compared: dict[str, Comparison] = {}
    for each, its_name in task.measures.items():
        rival = max(others, key=lambda m, by=each: _mean(m, by))  # type: ignore[misc]
        compared[each] = _compare(its_name, each, learned, rival)
    first = compared[key]
    found |= {field: first[field] for field in ("rival", "gain", "interval", "winner")} | {"comparisons": compared}
    opposed = key != "neighbours" and "neighbours" in compared and _opposed(first, compared["neighbours"])
    size = f"both at {num_bytes} bytes a vector"
    found["goals"] = [
        {
            "goal": goal,
            "key": each,
            "winner": compared[each]["winner"],
            "advice": _advice(each, compared, size, opposed),
        }
        for each, goal in GOALS.items()
        if each in compared
    ]
    lines = [f"{g['goal']}: {g['advice']}" for g in found["goals"]]
    if opposed and key == "same_image":  # labels would settle it
        found["winner"] = None
        lines = [_it_depends(first, compared["neighbours"]), *lines]
    return found | {"verdict": "\n".join(lines)}


def _advice(key: str, compared: dict[str, Comparison], size: str, opposed: bool) -> str:
    """What to use for one goal, and its figures: a sentence."""
    c = compared[key]
    start = {
        None: "no clear winner, keep what you have",
        LEARNED: "use the learned codes",
    }.get(c["winner"], f"use {c['rival']}, without learning")
    beside = ""
    if key == "map":
        beside = "".join(f"; {_at_rank(c)}" for each, c in compared.items() if each.startswith("precision"))
    elif key == "same_image":
        beside = f"; {OBJECTIVE}"
    elif opposed:
        beside = f"; {IF_MEANT}"
    return f"{start}: {_figures(c, size)}{beside}."


def _mean(method: dict[str, Any], key: str) -> float:
    """The figure `key` of a method, a mean over its seeds."""
    return float(np.mean(method["per_query"][key]))


def _compare(name: str, key: str, learned: dict[str, Any], rival: dict[str, Any]) -> Comparison:
    low, high = interval(learned["per_query"][key], rival["per_query"][key])
    ours, best = _mean(learned, key), _mean(rival, key)
    return {
        "measure": name,
        "learned": ours,
        "best": best,
        "method": rival["label"],
        "rival": rival["neighbours_setting"] if key == "neighbours" else rival["setting"],
        "gain": ours - best,
        "interval": [low, high],
        "winner": LEARNED if low > 0 else rival["label"] if high < 0 else None,
    }


def _opposed(a: Comparison, b: Comparison) -> bool:
    """Whether one is decided for the learned codes, and the other against them."""
    return None not in (a["winner"], b["winner"]) and (a["winner"] == LEARNED) != (b["winner"] == LEARNED)


def _margin(c: Comparison) -> str:
    low, high = c["interval"]
    return f"difference {c['gain']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"


def _figures(c: Comparison, size: str) -> str:
    return (
        f"{c['measure']} is {c['learned']:.3f} for the learned codes and {c['best']:.3f} for the best of the others, "
        f"{c['rival']}, {size} ({_margin(c)})"
    )


def _at_rank(c: Comparison) -> str:
    """Precision among the very first, beside the baseline that is best there."""
    says = {None: "no clear difference", LEARNED: "higher"}.get(c["winner"], "lower")
    best = f"{c['best']:.3f} of {c['method']}, the best there"
    return f"{c['measure']} {c['learned']:.3f} against {best}: {says} ({_margin(c)})"


def _it_depends(copies: Comparison, neighbors: Comparison) -> str:
    """The two figures without labels contradict each other: what that means for the user."""
    learned = "the learned codes"
    finder, keeper = (learned if c["winner"] == LEARNED else c["rival"] for c in (copies, neighbors))
    return (
        f"No winner, it depends on what similar means in your application: use {finder} where a crop or another light "
        f"of the same thing shall be found, {keeper} where similar means near by the backbone's features."
    )
