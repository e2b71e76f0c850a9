"""A Ray of several nodes on this machine, and workers whose attempts are counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle import encoded
from mecoq_faiss.cluster import engine as on_ray
from mecoq_faiss.cluster.encode import encode
from mecoq_faiss.cluster.worker import ShardWorker
from mecoq_faiss.storage.shards import Shards

SHARD_ROWS = 64
MEMORY = {"object_store_memory": 80 << 20}
SECONDS = 0.1  # that a shard takes at least, so that a kill finds one at work
SETTINGS = {  # processes as they are wanted; a dead node seen soon, a slow one not taken for dead
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


class CountedWorker(ShardWorker):
    """Says in a file which process begins which shard."""

    def write(self, i: int) -> str:
        if self.job.shards.find(i) is None:
            with open(attempts_file(self.job.shards), "a") as file:
                file.write(f"{i} {os.getpid()}\n")
            time.sleep(SECONDS * (0.5 + np.random.default_rng().random()))
        return super().write(i)


def attempts_file(shards: Shards) -> Path:
    return shards.folder.parent / "attempts"


def attempts(folder: Path) -> list[tuple[int, int]]:
    """(shard, pid) of each attempt so far."""
    path = folder / "attempts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(shard), int(pid)) for shard, pid in (line.split() for line in lines if line.count(" ") == 1)]


@contextmanager
def small_shards() -> Iterator[None]:
    """Within, shards are tiny, and the workers counted."""
    rows, worker = encoded.SHARD_ROWS, on_ray.WORKER
    encoded.SHARD_ROWS, on_ray.WORKER = SHARD_ROWS, CountedWorker
    try:
        yield
    finally:
        encoded.SHARD_ROWS, on_ray.WORKER = rows, worker


def start(nodes: int, cpus: int) -> Any:
    """A cluster of a head with two CPUs and further nodes with so many."""
    from ray.cluster_utils import Cluster

    os.environ.update(SETTINGS)
    cluster = Cluster(initialize_head=True, head_node_args={**MEMORY, "num_cpus": 2, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(wait=False, num_cpus=cpus, **MEMORY)
    cluster.wait_for_nodes()
    return cluster


def encode_on(cluster: Any, run: Path, out: Path, data: str = "digits") -> int:
    return encode(run, data, out, ray=cluster.address)
