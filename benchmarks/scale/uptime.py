"""Replicas that fail and come back: the share of time in which every shard has one that answers (simpy)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy


def full_share(shards: int, replicas: int, mtbf: float, repair: float, horizon: float, seed: int) -> float:
    """Share of `horizon` in which no shard is without a replica; times up and down are exponential, in one unit."""
    rng = np.random.default_rng(seed)
    env = simpy.Environment()
    up = np.full(shards, replicas)
    missing = 0  # shards without a replica
    since, partial = 0.0, 0.0

    def replica(shard: int) -> Generator[Any, Any, None]:
        nonlocal missing, since, partial
        while True:
            yield env.timeout(rng.exponential(mtbf))
            up[shard] -= 1
            if not up[shard]:
                since = since if missing else env.now
                missing += 1
            yield env.timeout(rng.exponential(repair))
            if not up[shard]:
                missing -= 1
                partial += 0.0 if missing else env.now - since
            up[shard] += 1

    for shard in range(shards):
        for _ in range(replicas):
            env.process(replica(shard))
    env.run(horizon)
    return 1 - (partial + (horizon - since if missing else 0.0)) / horizon


def expected_share(shards: int, replicas: int, mtbf: float, repair: float) -> float:
    """The same by arithmetic: replicas are down independently."""
    return float((1 - (repair / (mtbf + repair)) ** replicas) ** shards)
