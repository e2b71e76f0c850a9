"""The verdict: who wins, by how much, and where nobody does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mecoq_faiss.comparison.figures import Task
from mecoq_faiss.comparison.verdict import IF_MEANT, interval, verdict


def entry(label: str, num_bytes: int = 4, **per_query: Any) -> dict[str, Any]:
    seeds = {key: [np.array(values, np.float64)] for key, values in per_query.items()}
    settings = {"setting": f"{label} setting", "neighbours_setting": f"{label} near"}
    return {"label": label, **settings, "num_bytes": num_bytes, "per_query": seeds}


def judge(*methods: dict[str, Any], labels: bool = True, neighbors: bool = False) -> dict[str, Any]:
    """The verdict by MAP@1 and precision@1, and where asked for by exact neighbours; or without labels."""
    x, y = np.zeros((4, 2)), np.zeros(4, np.int64)
    if labels:
        return verdict(methods, Task(x, y, y, x if neighbors else None, None, None, 1), 4)
    return verdict(methods, Task(x, None, None, x, x, y, 1), 4)


def spread(mean: float) -> list[float]:
    """Values of 200 queries."""
    return [mean - 0.1, mean + 0.1] * 100


@pytest.mark.parametrize(
    ("learned", "pq", "winner", "begins"),
    [
        ([0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.6], "MeCoQ", "Of one kind: use the learned codes: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.6, 0.7, 0.8], "PQ", "Of one kind: use PQ setting, without learning: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.4, 0.5, 0.7], None, "Of one kind: no clear winner, keep what you have: "),
    ],
)
def test_verdicts(learned: list[float], pq: list[float], winner: str | None, begins: str) -> None:
    def both(values: list[float]) -> dict[str, Any]:
        return {"map": values, "precision_at_1": values}

    worse = entry("OPQ", **both([0.1] * 4))
    found = judge(entry("MeCoQ", **both(learned)), worse, entry("PQ", **both(pq)), entry("Flat", 64, **both([1.0] * 4)))
    assert found["winner"] == winner and found["verdict"].startswith(begins)
    assert "4 bytes a vector" in found["verdict"], "Flat is larger, and no rival"
    assert found["rival"] == "PQ setting" and found["gain"] == pytest.approx(np.mean(learned) - np.mean(pq))
    low, high = found["interval"]
    assert low <= found["gain"] <= high and f"95 % interval {low:+.3f} to {high:+.3f}" in found["verdict"]
    assert f"precision@1 {np.mean(learned):.3f} against {np.mean(pq):.3f} of PQ, the best there" in found["verdict"]
    alone = judge(entry("MeCoQ", **both(learned)))
    assert alone["verdict"] == "Nothing of the same size was compared." and alone["winner"] is None


def test_without_labels_a_hair_decides_nothing() -> None:
    """0.9001 against 0.9000 of 10,000 copies: no winner."""
    found, almost = np.ones(10_000), np.ones(10_000)
    found[:999], almost[-1000:] = 0, 0
    nothing: dict[str, Any] = {"neighbours": spread(0.5)}
    learned, pq = entry("MeCoQ", same_image=found, **nothing), entry("PQ", same_image=almost, **nothing)
    verdict = judge(learned, pq, labels=False)
    assert verdict["gain"] == pytest.approx(0.0001) and verdict["winner"] is None
    assert verdict["verdict"].startswith("Altered copies: no clear winner")


def test_map_won_but_the_first_results_lost_is_said_in_the_same_sentence() -> None:
    learned = entry("MeCoQ", map=spread(0.6), precision_at_1=spread(0.5))
    pq = entry("PQ", map=np.add(spread(0.5), [0.01, -0.01] * 100), precision_at_1=[0.55, 0.65] * 100)
    said = judge(learned, pq)
    assert said["winner"] == "MeCoQ" and said["comparisons"]["precision_at_1"]["winner"] == "PQ"
    assert "; precision@1 0.500 against 0.600 of PQ, the best there: lower (difference -0.100, " in said["verdict"]
    assert said["verdict"].count(". ") == said["verdict"].count("\n") == 0, "one sentence"
    close = entry("PQ", map=spread(0.5), precision_at_1=np.roll(spread(0.51), 1))
    assert "of PQ, the best there: no clear difference" in judge(learned, close)["verdict"], "within its interval"


def test_at_each_rank_the_rival_is_the_best_there() -> None:
    learned = entry("MeCoQ", map=spread(0.6), precision_at_1=spread(0.55))
    pq = entry("PQ", map=spread(0.5), precision_at_1=spread(0.5))
    rq = entry("RQ", map=spread(0.4), precision_at_1=spread(0.6))
    said = judge(learned, pq, rq)
    assert said["comparisons"]["map"]["method"] == "PQ" and said["comparisons"]["precision_at_1"]["method"] == "RQ"
    assert said["comparisons"]["precision_at_1"]["winner"] == "RQ" and said["winner"] == "MeCoQ"
    assert "precision@1 0.550 against 0.600 of RQ, the best there: lower" in said["verdict"]


@pytest.mark.parametrize(
    ("copies", "neighbours", "winner"),
    [
        (0.1, 0.1, "MeCoQ"), (0.1, 0.0, "MeCoQ"), (0.1, -0.1, None), (0.0, 0.1, None), (0.0, -0.1, None),
        (-0.1, 0.1, None), (-0.1, 0.0, "PQ"), (-0.1, -0.1, "PQ"),
    ],
)  # fmt: skip
def test_where_copies_and_neighbours_disagree_nobody_wins(copies: float, neighbours: float, winner: str | None) -> None:
    pq = entry("PQ", same_image=spread(0.5), neighbours=spread(0.3))
    learned = entry("MeCoQ", same_image=spread(0.5 + copies), neighbours=spread(0.3 + neighbours))
    found = judge(learned, pq, labels=False)
    assert found["winner"] == winner
    assert f"{0.5 + copies:.3f}" in found["verdict"] and f"{0.3 + neighbours:.3f}" in found["verdict"]
    assert "trained to find" in found["verdict"]
    disagree = copies * neighbours < 0
    assert found["verdict"].startswith("No winner, it depends on what similar means in your application") == disagree
    if disagree:
        finder, keeper = ("the learned codes", "PQ near") if copies > 0 else ("PQ setting", "the learned codes")
        first, *_ = found["verdict"].split("\n")
        assert f"use {finder} where a crop" in first and f"{keeper} where similar means near" in first
    assert found["verdict"].endswith(f"{IF_MEANT}.") == disagree
    assert [goal["winner"] for goal in found["goals"]] == [
        {1: "MeCoQ", 0: None, -1: "PQ"}[int(np.sign(gain))] for gain in (copies, neighbours)
    ]


def test_with_labels_each_goal_has_its_advice_and_labels_decide() -> None:
    learned = entry("MeCoQ", map=spread(0.6), precision_at_1=spread(0.6), neighbours=spread(0.1))
    pq = entry("PQ", map=spread(0.5), precision_at_1=spread(0.5), neighbours=spread(0.15))
    rq = entry("RQ", map=spread(0.4), precision_at_1=spread(0.5), neighbours=spread(0.2))
    found = judge(learned, pq, rq, neighbors=True)
    kind, near = found["verdict"].split("\n")
    assert kind.startswith("Of one kind: use the learned codes: MAP@1 is 0.600") and "PQ setting" in kind
    assert near.startswith("Exact neighbours: use RQ near, without learning: recall@10") and "0.200" in near
    assert near.endswith(f"{IF_MEANT}.") and found["winner"] == "MeCoQ"
    assert [(g["key"], g["winner"]) for g in found["goals"]] == [("map", "MeCoQ"), ("neighbours", "RQ")]


def test_each_measure_has_its_own_best_rival() -> None:
    learned = entry("MeCoQ", same_image=spread(0.5), neighbours=spread(0.5))
    pq, opq = entry("PQ", same_image=spread(0.4), neighbours=spread(0.3)), entry("OPQ", same_image=spread(0.3),
        neighbours=spread(0.6))  # fmt: skip
    found = judge(learned, pq, opq, labels=False)
    assert [found["comparisons"][key]["rival"] for key in ("same_image", "neighbours")] == ["PQ setting", "OPQ near"]
    assert found["winner"] is None and "OPQ near where similar means near" in found["verdict"]


def test_the_interval_is_that_of_the_queries() -> None:
    """Against the textbook's, for many queries; paired; wider by the spread over seeds; seeded."""
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    a, b = 0.7 * hard + 0.1 * rng.random(2000), 0.7 * hard
    low, high = interval([a], [b])
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(2000)
    assert (low, high) == pytest.approx(((a - b).mean() - half, (a - b).mean() + half), abs=0.1 * half)
    assert (low, high) == interval([a], [b])
    several = interval([a, a + 0.02, a - 0.02], [b, b, b])
    spread = 1.96 * 0.02 / np.sqrt(3)
    assert several[0] == pytest.approx((a - b).mean() - np.hypot(half, spread), rel=0.02)
    assert several[1] == pytest.approx((a - b).mean() + np.hypot(half, spread), rel=0.02)
    assert interval([a[:1]], [b[:1]]) == (-1.0, 1.0), "one query decides nothing"
