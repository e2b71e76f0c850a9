"""Requests that ask every shard and wait for the last: queues at replicas, a second replica asked late (simpy).

Given the requests' arrivals, shards do not know of each other: each is simulated by itself on the same arrivals, and a
request takes as long as the slowest of its shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

WARM_UP = 0.05  # of the requests, which find empty queues, are not counted
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


@dataclass(frozen=True)
class Replicas:
    """What answers for one shard; times in milliseconds.

    Attributes:
        replicas: each does one piece of work at a time, in the order asked; a request asks one by lot.
        utilization: of a replica, if no request asked twice.
        service_ms, sigma: mean of the log-normal work, and of its logarithm the deviation.
        slow_chance, slow_ms: a piece of work takes so much longer by this chance.
        hedge_ms: without an answer for so long a request asks a second replica; the first answer counts, and the other
            is given up, in the queue or at work. 0: never.
    """

    replicas: int
    utilization: float
    service_ms: float
    sigma: float = 0.0
    slow_chance: float = 0.0
    slow_ms: float = 0.0
    hedge_ms: float = 0.0


def arrivals(p: Replicas, requests: int, rng: np.random.Generator) -> np.ndarray:
    """Times (requests,) of Poisson arrivals that use the replicas so much."""
    mean = (p.service_ms + p.slow_chance * p.slow_ms) / p.replicas / p.utilization
    return np.cumsum(rng.exponential(mean, requests))


def answers(
    p: Replicas, at: np.ndarray, rng: np.random.Generator, draw: Callable[[], float] | None = None
) -> tuple[np.ndarray, int]:
    """Milliseconds (requests,) from each arrival to its answer by one shard, and how often a second was asked."""
    env = simpy.Environment()
    queues = [simpy.Resource(env) for _ in range(p.replicas)]
    took = np.zeros(len(at))
    hedged = 0

    def work() -> float:
        slow = p.slow_ms if p.slow_chance and rng.random() < p.slow_chance else 0.0
        return p.service_ms * math.exp(rng.normal(-p.sigma * p.sigma / 2, p.sigma)) + slow

    draw = draw or work

    def serve(queue: simpy.Resource, answered: simpy.Event) -> Generator[Any, Any, None]:
        with queue.request() as turn:
            yield turn | answered
            if not answered.triggered:
                yield env.timeout(draw()) | answered
        if not answered.triggered:
            answered.succeed()

    def ask(i: int) -> Generator[Any, Any, None]:
        nonlocal hedged
        first = int(rng.integers(p.replicas))
        answered = env.event()
        env.process(serve(queues[first], answered))
        if p.hedge_ms and p.replicas > 1:
            yield answered | env.timeout(p.hedge_ms)
            if not answered.triggered:
                hedged += 1
                second = (first + 1 + int(rng.integers(p.replicas - 1))) % p.replicas
                env.process(serve(queues[second], answered))
        if not answered.processed:
            yield answered
        took[i] = env.now - at[i]

    def arrive() -> Generator[Any, Any, None]:
        for i, time in enumerate(at):
            yield env.timeout(time - env.now)
            env.process(ask(i))

    env.process(arrive())
    env.run()
    return took, hedged


def figures(p: Replicas, shards: Sequence[int], requests: int, seed: int) -> list[dict[str, float]]:
    """Percentiles of whole answers, and shards' questions asked twice, for each number of shards."""
    at = arrivals(p, requests, np.random.default_rng((seed, 0)))
    rows: list[dict[str, float]] = []
    slowest, hedged = np.zeros(requests), 0
    for shard in range(max(shards)):
        took, twice = answers(p, at, np.random.default_rng((seed, 1 + shard)))
        slowest, hedged = np.maximum(slowest, took), hedged + twice
        if shard + 1 in shards:
            counted = slowest[int(WARM_UP * requests) :]
            tail = {name: float(np.percentile(counted, at)) for name, at in PERCENTILES.items()}
            rows.append({"shards": shard + 1, **tail, "asked twice": hedged / requests / (shard + 1)})
    return rows
