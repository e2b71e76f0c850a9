"""Many shards encoded on many nodes: log-normal times, slow and failing nodes, copies of the last shards (simpy)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy


@dataclass(frozen=True)
class Fleet:
    """What a run is made of; times in seconds.

    Attributes:
        shards: pieces of work, each as large.
        nodes: each does one shard at a time.
        shard_time: mean of an attempt on a node that is not slow, once it has started.
        start: what an attempt takes before that, always.
        sigma: of the logarithm of an attempt's time.
        slow_share, slow_factor: so many of the nodes take so many times as long.
        mtbf: mean time between a node's failures; 0: none fails.
        repair: until a failed node is back. Its shard begins anew, at the next free node.
        copies: a free node without a shard of its own begins the one that has run longest once more, if no other has
            done so; the first to end it counts, and the other stops.
    """

    shards: int
    nodes: int
    shard_time: float
    start: float = 0.0
    sigma: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    mtbf: float = 0.0
    repair: float = 0.0
    copies: bool = False


@dataclass
class Shard:
    """One piece of work and who is at it."""

    done: bool = False
    begun: float = 0.0
    attempts: list[simpy.Process] = field(default_factory=list)


class Run:
    """One simulated run; `end` is when the last shard was done."""

    def __init__(self, fleet: Fleet, rng: np.random.Generator, draw: Callable[[int], float] | None = None) -> None:
        self.fleet, self.rng = fleet, rng
        self.env = simpy.Environment()
        self.queue = deque(Shard() for _ in range(fleet.shards))
        self.running: dict[int, Shard] = {}  # in the order begun
        self.left, self.end = fleet.shards, 0.0
        self.failures = self.restarts = self.copied = 0
        self.busy = 0.0
        self.finished = self.env.event()
        self.idle: deque[simpy.Event] = deque()
        slow = rng.random(fleet.nodes) < fleet.slow_share
        self.factor = np.where(slow, fleet.slow_factor, 1.0)
        self.draw = draw or self._draw
        for node in range(fleet.nodes):
            self.env.process(self._node(node))
        self.env.run(self.finished)

    def _draw(self, node: int) -> float:
        """Time of an attempt on a node."""
        sigma = self.fleet.sigma
        noise = math.exp(self.rng.normal(-sigma * sigma / 2, sigma)) if sigma else 1.0
        return self.fleet.start + self.fleet.shard_time * noise * self.factor[node]

    def _node(self, node: int) -> Generator[Any, Any, None]:
        fleet, env = self.fleet, self.env
        fails_at = self._next_failure()
        while self.left:
            shard = self._next()
            if shard is None:  # nothing to do now; a node that fails idle is not missed
                waiting = env.event()
                self.idle.append(waiting)
                yield waiting
                fails_at = fails_at if fails_at > env.now else self._next_failure()
                continue
            began, takes = env.now, self.draw(node)
            alive = fails_at - began
            attempt = env.process(self._attempt(min(takes, alive)))
            shard.attempts.append(attempt)
            finished = yield attempt
            shard.attempts.remove(attempt)
            self.busy += env.now - began
            if finished and takes > alive:  # the node has failed
                self.failures += 1
                self._lost(shard)
                yield env.timeout(fleet.repair)
                fails_at = self._next_failure()
            elif not shard.done:
                self._done(shard)

    def _attempt(self, seconds: float) -> Generator[Any, Any, bool]:
        """True after so long, False when another was first."""
        try:
            yield self.env.timeout(seconds)
            return True
        except simpy.Interrupt:
            return False

    def _next_failure(self) -> float:
        return self.env.now + self.rng.exponential(self.fleet.mtbf) if self.fleet.mtbf else math.inf

    def _next(self) -> Shard | None:
        if self.queue:
            shard = self.queue.popleft()
            shard.begun = self.env.now
            self.running[id(shard)] = shard
            return shard
        if self.fleet.copies:
            for shard in self.running.values():
                if len(shard.attempts) == 1:
                    self.copied += 1
                    return shard
        return None

    def _done(self, shard: Shard) -> None:
        shard.done = True
        del self.running[id(shard)]
        for other in shard.attempts:
            if other.is_alive:
                other.interrupt()
        self.left -= 1
        self.end = self.env.now
        if not self.left:
            self.finished.succeed()

    def _lost(self, shard: Shard) -> None:
        if not shard.attempts and not shard.done:  # else a copy goes on, or was first
            self.restarts += 1
            del self.running[id(shard)]
            self.queue.appendleft(shard)
        if self.idle and (self.queue or self.fleet.copies):
            self.idle.popleft().succeed()


def figures(fleet: Fleet, seed: int) -> dict[str, float]:
    """One run: hours, also over those without starts, stragglers, failures and an uneven end; and what was in vain."""
    run = Run(fleet, np.random.default_rng(seed))
    work = fleet.shards * fleet.shard_time
    return {
        "hours": run.end / 3600,
        "over ideal": run.end / (work / fleet.nodes),
        "node time / work": run.busy / work,
        "failures": run.failures,
        "restarts": run.restarts,
        "copies": run.copied,
    }
