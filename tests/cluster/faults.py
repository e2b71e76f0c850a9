"""`python -m tests.cluster.faults --runs N`: encode on a Ray whose workers and nodes die, and compare the bytes."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and FAISS start

import ray._private.utils

from mecoq_faiss import ModelConfig, TrainConfig, encode, train
from mecoq_faiss.storage.files import sha256
from tests.cluster.nodes import MEMORY, SHARD_ROWS, attempts, encode_on, small_shards, start

COUNT = -(-1500 // SHARD_ROWS)  # shards of the digits' database
NODES = 3
FAULTS = {"worker killed": 5, "node killed": 2, "node added": 1, "command stopped": 2}  # how often, one beside another
HANGS = 900  # seconds after which a run counts as one that never ends


class Run:
    """One command, repeated after each stop, while a thread breaks things at times that the seed gives."""

    def __init__(self, cluster: Any, folder: Path, seed: int) -> None:
        self.cluster, self.folder = cluster, folder
        self.random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.explained = 0  # attempts beyond one a shard
        self.over = threading.Event()

    def encode(self, model: Path) -> str:
        """The result's SHA-256."""
        breaking = threading.Thread(target=self._break)
        breaking.start()
        try:
            while True:
                try:
                    encode_on(self.cluster, model, self.folder / "out.h5")
                    break
                except KeyboardInterrupt:
                    if self.random.random() < 0.5:
                        self.faults["head restarted"] += 1
                        self.cluster.shutdown()
                        self.cluster = start(NODES, cpus=1)
        finally:
            self.over.set()
            breaking.join()
        return sha256(self.folder / "out.h5")

    def _break(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            begun = len(attempts(self.folder)) + self.random.randint(1, COUNT // 3)
            while len(attempts(self.folder)) < begun:
                if self.over.wait(0.02):
                    return
            fault = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
            if len({i for i, _ in attempts(self.folder)}) < COUNT and self._one(fault):
                self.faults[fault] += 1

    def _one(self, fault: str) -> bool:
        """Whether it could be done."""
        others = list(self.cluster.worker_nodes)
        if fault == "worker killed":
            self.explained += 1
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(attempts(self.folder)[-NODES:])[1], signal.SIGKILL)
                return True
            return False
        if fault == "node killed" and others:
            self.explained += 1
            self.cluster.remove_node(self.random.choice(others), allow_graceful=False)
            return True
        if fault == "node added" and len(others) < NODES:
            self.cluster.add_node(wait=False, num_cpus=1, **MEMORY)
            return True
        if fault == "command stopped":
            self.explained += 2 + len(others)
            os.kill(os.getpid(), signal.SIGINT)
            return True
        return False


def main() -> int:
    """1 where a run went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=7200, help="no further run after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append a line for each run")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with it ignored
    ray._private.utils.set_sigterm_handler = lambda handler: None  # a node that a thread adds would set one
    began, total, bad = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder, small_shards():
        model, expected = Path(folder) / "run", Path(folder) / "expected.h5"
        train(
            "digits", model, ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32), TrainConfig(epochs=1)
        )
        encode(model, "digits", expected)
        cluster = start(NODES, cpus=1)
        for number in range(given.runs):
            if time.monotonic() - began > given.seconds:
                break
            while len(cluster.worker_nodes) < NODES - 1:
                cluster.add_node(num_cpus=1, **MEMORY)
            faulthandler.dump_traceback_later(HANGS, exit=True)
            place = Path(folder) / f"{number:03}"
            place.mkdir()
            run = Run(cluster, place, given.seed * 1000 + number)
            same, cluster = run.encode(model) == sha256(expected), run.cluster
            more = len(attempts(place)) - COUNT
            good = same and more <= run.explained and sorted(os.listdir(place)) == ["attempts", "out.h5"]
            total.update(run.faults)
            total.update(runs=1, **{"equal bytes": same, "attempts twice": more})
            bad += not good
            row = {"run": number, "good": good, "same": same, "more": more, "explained": run.explained, **run.faults}
            print(json.dumps(row), flush=True)
            if given.json:
                with open(given.json, "a") as file:
                    file.write(json.dumps(row | {"seconds": round(time.monotonic() - began)}) + "\n")
        faulthandler.cancel_dump_traceback_later()
        cluster.shutdown()
    print(json.dumps(dict(total) | {"bad": bad}))
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
