"""Serving on Ray: a group of replicas for each shard, and this process, which answers HTTP and asks them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss

from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.cluster.remote import Ask, RemoteGeneration
from mecoq_faiss.cluster.session import LOCAL, connected
from mecoq_faiss.cluster.shard_server import ShardServer
from mecoq_faiss.index.part import PartLost
from mecoq_faiss.service.run import serve as serve_http
from mecoq_faiss.service.settings import Settings

logger = logging.getLogger("mecoq_faiss")
AT_ONCE = 64  # requests in a replica
PAUSE = 0.05  # seconds before another try
OPENING = 600.0  # seconds that a shard may take to be opened


def serve(settings: Settings, host: str, port: int, *, ray: str, replicas: int = 2) -> None:
    """Answer HTTP as `service.run.serve` does, with the shards of the bundles in replicas on a Ray.

    This process decodes, encodes, asks a replica of each shard, and merges. What a killed replica was asked is asked of
    another; Ray starts it again. Several such processes can stand behind one address.

    Args:
        settings: as there; bundles lie in folders that all nodes see under these names.
        host: where to listen.
        port: likewise.
        ray: `local`, `auto` or the HOST:PORT of a cluster.
        replicas: of each shard.

    Raises:
        ImportError: no Ray (extra: cluster).
        ConnectionError: no cluster at the address.
        ValueError, OSError: what `service.run.serve` raises.
    """
    with shard_replicas(ray, replicas, settings.seconds / 3) as opener:
        serve_http(settings, host, port, opener)


@contextmanager
def shard_replicas(address: str, replicas: int, patience: float) -> Iterator[Any]:
    """Gives a function like `open_bundle` whose bundles are searched by replicas, which end with the block.

    Args:
        address: see `session.connected`.
        replicas: of each shard.
        patience: seconds for which a shard without an answer is asked again.
    """
    with connected(address):
        from ray import serve as ray_serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray_serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        of_shards = _Replicas(replicas, patience, 0 if address == LOCAL else 1)
        try:
            yield partial(_open, of_shards)
        finally:
            of_shards.end()


def _open(of_shards: _Replicas, path: str | Path, device: str = "auto", runtime: str = "torch") -> Bundle:
    return Bundle(path, device, runtime, partial(RemoteGeneration, ask_of=of_shards.ask_of))


class _Replicas:
    """The replicas of shards, started when a shard is first asked for."""

    def __init__(self, count: int, patience: float, num_cpus: int) -> None:
        self._count, self._patience, self._num_cpus = count, patience, num_cpus
        self._handles: dict[Path, Any] = {}
        self._own = f"mecoq-faiss-{os.getpid()}-{time.time_ns():x}"

    def ask_of(self, folder: Path) -> Ask:
        """The `Ask` of a shard's folder."""
        folder = folder.absolute()
        if folder not in self._handles:
            self._handles[folder] = self._started(folder)
        return partial(self._ask, self._handles[folder], folder.name)

    def _started(self, folder: Path) -> Any:
        from ray import serve as ray_serve

        deployment: Any = ray_serve.deployment(ShardServer)
        deployed = deployment.options(
            name=folder.name, num_replicas=self._count, max_ongoing_requests=AT_ONCE,
            ray_actor_options={"num_cpus": self._num_cpus}, logging_config={"log_level": "ERROR"},
        )  # fmt: skip
        threads = self._num_cpus or max(1, faiss.omp_get_max_threads())
        name = f"{self._own}-{len(self._handles)}"
        return ray_serve.run(deployed.bind(str(folder), threads), name=name, route_prefix=None)

    def _ask(self, handle: Any, shard: str, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        until = time.monotonic() + (OPENING if method == "describe" else self._patience)
        while True:
            left = max(PAUSE, until - time.monotonic())
            try:
                return getattr(handle, method).remote(*arguments).result(timeout_s=left)
            except RayTaskError:  # the shard's own answer
                raise
            except (RayError, RayServeException, TimeoutError) as error:
                if time.monotonic() + PAUSE > until:
                    raise PartLost(f"{shard} does not answer") from error
                time.sleep(PAUSE)

    def end(self) -> None:
        """Let go of all replicas."""
        from ray import serve as ray_serve

        with ThreadPoolExecutor(AT_ONCE) as pool:  # each takes seconds
            list(pool.map(ray_serve.delete, [f"{self._own}-{number}" for number in range(len(self._handles))]))
