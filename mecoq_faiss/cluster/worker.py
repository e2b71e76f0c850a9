"""What a worker of a Ray does: write a shard of an encoded file, build a bundle."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mecoq_faiss.bundle.built import build_bundle
from mecoq_faiss.bundle.encoded import Encoding
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.cluster.reports import report
from mecoq_faiss.cluster.store import Store
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.storage.shards import Shards


class Place(NamedTuple):
    """What all workers of a command are given."""

    model: list[Any]  # of one ray.ObjectRef: a MeCoQ on the CPU
    device: str
    folder: str  # where relative names begin
    host: str  # of the command

    def encoder(self) -> TorchEncoder:
        """The command's, in a process that computes with one thread in the command's folder."""
        import ray
        import torch

        with suppress(OSError):  # names may be absolute
            os.chdir(self.folder)
        torch.set_num_threads(1)
        return TorchEncoder(ray.get(self.model[0]), self.device)


class Job(NamedTuple):
    """What a worker needs in order to write any shard of an encoded file."""

    place: Place
    data: str | Path
    split: str
    embeddings: str | None
    shards: Shards
    store: Store | None  # where they are put, if not into their folder


class ShardWorker:
    """One process that writes shards; it opens the model and the source once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._encoding: Encoding | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the shard of the number in `item`, unless it is there; `report` is JSON of its number and name."""
        [i] = batch["item"].tolist()
        said = report(lambda: [i, self.write(i)], self.job.place.host)
        return {"report": np.array([json.dumps(said)])}

    def write(self, i: int) -> str:
        """Write shard i, unless another has; gives its name."""
        shards, store = self.job.shards, self.job.store
        if store is None and (there := shards.find(i)) is not None:
            return there.name
        if store is None and not shards.work.is_there():
            raise ValueError(f"{shards.folder} is not seen: give an --out that all nodes see under this name")
        if self._encoding is None:
            self._encoding = self._opened()
        if store is not None:
            return store.write(self._encoding, shards, i)
        numbers = shards.batches(i)
        return shards.write(i, self._encoding.batches(numbers.start, numbers.stop)).name

    def _opened(self) -> Encoding:
        job = self.job
        encoder = job.place.encoder()
        encoding = Encoding(encoder, open_source(job.data, job.split), job.embeddings, workers=0)
        if encoding.key != job.shards.key:
            raise ValueError(
                f"{job.data} is not the same on {socket.gethostname()} and {job.place.host}: "
                "give a place that all nodes see, and leave it as it is meanwhile"
            )
        return encoding


def build(place: Place, task: dict[str, Any]) -> dict[str, Any]:
    """The report of `build_bundle` with these arguments."""
    return report(lambda: build_bundle(encoder=place.encoder(), **task), place.host)
