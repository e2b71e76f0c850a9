"""RayEngine: encodes and builds by the workers of a Ray."""

from __future__ import annotations

import copy
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mecoq_faiss.bundle.encoded import Encoding
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.cluster.reports import result_of
from mecoq_faiss.cluster.session import connected, import_ray
from mecoq_faiss.cluster.store import Store
from mecoq_faiss.cluster.worker import Job, Place, ShardWorker, build
from mecoq_faiss.runtime.progress import Estimate, progress
from mecoq_faiss.storage.shards import Shards
from mecoq_faiss.storage.work_folder import TEMPORARY

logger = logging.getLogger("mecoq_faiss")
STARTS = 20  # of workers that die in a row before one has begun: nodes may go while it starts
DEVICES = ("auto", "cpu", "cuda")


class RayEngine:
    """The `bundle.engine.Engine` whose processes are a Ray's. It is connected from the first work to the block's end.

    Args:
        address: see `session.connected`.
        data: the name of the source, the same on all nodes; None where nothing is encoded.
        split: of a built-in protocol.
        device: of the workers: `auto` (GPUs, if the cluster has any), `cpu` or `cuda`.
        store: where shards of encoded files are put, if not into a folder that all nodes see.

    Raises:
        ImportError: no Ray.
        ValueError: another device, or a source without a name.
    """

    def __init__(
        self,
        address: str,
        data: str | Path | None,
        split: str = "database",
        device: str = "auto",
        store: Store | None = None,
    ) -> None:
        import_ray()
        if device not in DEVICES:
            raise ValueError(f"device={device!r}: with Ray, which chooses among GPUs, give auto, cpu or cuda")
        if data is not None and not isinstance(data, str | Path):
            raise ValueError("with Ray give the name of the source: every worker opens it by itself")
        self.address, self.data, self.split, self.device = address, data, split, device
        self.store, self._stack = store, ExitStack()
        self._ray: Any = None

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def write_shards(self, encoding: Encoding, shards: Shards, missing: list[int]) -> dict[int, Path]:
        """See `Engine.write_shards`."""
        assert self.data is not None
        ray = self._connected()
        there = ray.cluster_resources()
        on_gpus = self.device == "cuda" or (self.device == "auto" and there.get("GPU", 0) >= 1)
        if on_gpus and there.get("GPU", 0) < 1:
            raise ValueError("device='cuda': the cluster has no GPU; give cpu or auto")
        size = min(len(missing), int(there["GPU"]) if on_gpus else _free(there))
        place = self._place(ray, encoding.encoder, "cuda" if on_gpus else "cpu")
        for_workers = replace(shards, folder=shards.folder.absolute())
        job = Job(place, self.data, self.split, encoding.embeddings, for_workers, self.store)
        done: dict[int, Path] = {}
        try:
            for i, name in _shown(_reports(ray, job, missing, size, on_gpus), shards, missing, size):
                done[i] = shards.folder / name if self.store is None else self.store.fetch(shards, name)
        except (KeyboardInterrupt, SystemExit):
            made, kept = shards.count - len(missing) + len(done), shards.folder
            logger.info("stopped: %d of %d shards are in %s: the same command continues", made, shards.count, kept)
            raise
        return done

    def build_bundles(self, encoder: TorchEncoder, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `Engine.build_bundles`."""
        ray = self._connected()
        place = ray.put(self._place(ray, encoder, "cpu"))
        remote = ray.remote(num_cpus=1, max_retries=-1)(build)
        waiting = {remote.remote(place, task): i for i, task in enumerate(tasks)}

        def finished() -> Iterator[tuple[int, dict[str, Any]]]:
            while waiting:
                [ready], _ = ray.wait(list(waiting))
                try:
                    said = ray.get(ready)
                except ray.exceptions.RayError as error:
                    raise _failed(error) from error
                yield waiting.pop(ready), result_of(said)

        done = dict(progress(finished(), total=len(tasks), label="building", unit="shards"))
        for task in tasks:
            for entry in task["folder"].iterdir():
                if TEMPORARY.fullmatch(entry.name):  # of a worker that was killed
                    entry.unlink()
        return [done[i] for i in range(len(tasks))]

    def _connected(self) -> Any:
        if self._ray is None:
            self._ray = self._stack.enter_context(connected(self.address))
        return self._ray

    def _place(self, ray: Any, encoder: TorchEncoder, device: str) -> Place:
        return Place([ray.put(copy.deepcopy(encoder.model).cpu())], device, os.getcwd(), socket.gethostname())


def _free(there: dict[str, float]) -> int:
    """How many workers a cluster takes. One CPU stays free: Ray Data hangs where all are held (ray issue 44687)."""
    return max(1, int(there.get("CPU", 0)) - 1)


def _shown(
    reports: Iterator[dict[str, Any]], shards: Shards, missing: list[int], size: int
) -> Iterator[tuple[int, str]]:
    """Number and name of each shard that is written; what is done and how long the rest takes is said."""
    before = shards.count - len(missing)
    workers = f"{size} worker{'s' * (size > 1)}"
    if before:
        logger.info("%d of %d shards are there: %d to do by %s", before, shards.count, len(missing), workers)
    rows = {i: ENCODE_BATCH * len(shards.batches(i)) for i in missing}
    estimate = Estimate(sum(rows.values()), f"encoding by {workers}", "more nodes or CPUs take less")
    for said in progress(reports, total=shards.count, label="encoding", unit="shards", initial=before):
        i, name = result_of(said)
        estimate.done(rows[i])
        yield i, name


def _reports(ray: Any, job: Job, missing: list[int], size: int, on_gpus: bool) -> Iterator[dict[str, Any]]:
    """What the workers say of each shard, as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = STARTS
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends the work is raised
    written = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        WORKER,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(job,),
        num_cpus=1,
        num_gpus=int(on_gpus),
    )
    try:
        for row in written.iter_rows():
            yield json.loads(row["report"])
    except ray.exceptions.RayError as error:
        raise _failed(error) from error


def _failed(error: Exception) -> RuntimeError:
    """Ray's own error, of many lines, in one."""
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    return RuntimeError(
        f"the workers of the Ray have failed ({type(error).__name__}: {last}): see that all nodes have this version of "
        "mecoq-faiss, and run the same again"
    )


WORKER = ShardWorker
