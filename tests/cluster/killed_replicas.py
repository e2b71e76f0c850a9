"""Requests over HTTP while replicas of shards are killed, and exports exchanged.

`python -m tests.cluster.killed_replicas`: every answer is compared with that of one process. Prints what was counted as
JSON, and ends with 1 where any is wrong or missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mecoq_faiss import ModelConfig, TrainConfig, export_index, open_bundle, train
from mecoq_faiss.storage.files import exchange_folders

N, SHARDS, QUERIES, K, CLIENTS = 3000, 3, 20, 10, 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--exchanges", type=int, default=6)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = try_out(Path(folder), a)
    print(json.dumps(said, indent=2))
    return int(said["wrong"] + said["lost"] > 0 or said["right"] < a.requests)


def try_out(folder: Path, a: argparse.Namespace) -> dict[str, Any]:
    """Start a service, ask it, kill and exchange meanwhile; counts of what came of it."""
    queries, expected = _make(folder)
    counts: Counter[str] = Counter()
    done = threading.Event()
    with _service(folder / "bundle", a.replicas) as url:
        left = iter(range(a.requests))
        lock = threading.Lock()

        def ask() -> None:
            rng = random.Random(threading.get_ident())
            with httpx.Client(base_url=url, timeout=60) as client:
                while True:
                    with lock:
                        if next(left, None) is None:
                            return
                    number = rng.randrange(QUERIES)
                    outcome = _outcome(client, queries[number], number, expected)
                    with lock:
                        counts[outcome] += 1

        clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        disturber = threading.Thread(target=_disturb, args=(folder, a, counts, done))
        disturber.start()
        for client in clients:
            client.join()
        done.set()
        disturber.join()
    return {name: counts[name] for name in ("right", "wrong", "lost", "kills", "exchanges")}


def _outcome(client: httpx.Client, query: list[float], number: int, expected: dict[str, Any]) -> str:
    try:
        answer = client.post("/search", json={"vectors": [query], "k": K})
    except httpx.HTTPError:
        return "lost"
    if answer.status_code != 200:
        print(answer.status_code, answer.text, file=sys.stderr)
        return "lost"
    said = answer.json()
    hits, right = said["results"][0]["hits"], expected[said["generation"]][number]
    near = np.allclose([hit["score"] for hit in hits], [score for _, score in right], atol=1e-5)  # of other batches
    return "right" if near and [hit["id"] for hit in hits] == [id for id, _ in right] else "wrong"


def _disturb(folder: Path, a: argparse.Namespace, counts: Counter[str], done: threading.Event) -> None:
    """Kills and exchanges at random times, spread over the requests."""
    rng = random.Random(a.seed)
    events = ["kills"] * a.kills + ["exchanges"] * a.exchanges
    rng.shuffle(events)
    for position, event in enumerate(events):
        due = a.requests * (position + rng.random()) / len(events)
        while counts["right"] + counts["wrong"] + counts["lost"] < due and not done.wait(0.01):
            pass
        if event == "exchanges":
            exchange_folders(folder / "other", folder / "bundle", folder / "previous")
        else:
            while not (there := _replicas()):
                time.sleep(0.05)
            os.kill(rng.choice(there), signal.SIGKILL)
        counts[event] += 1


def _replicas() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:mecoq-faiss-"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _make(folder: Path) -> tuple[list[list[float]], dict[str, Any]]:
    """Two bundles in shards, `bundle` and `other`; queries, and of each export's name the right answers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 16)).astype(np.float32)
    np.save(folder / "x.npy", x)
    model = ModelConfig(backbone="features", weights="none", feature_dim=16, hidden=16, D=16, M=4, nbits=8)
    train(folder / "x.npy", folder / "run", model, TrainConfig(epochs=1, preserve_weight=0.0, workers=0))
    expected: dict[str, Any] = {}
    queries = x[:QUERIES] + rng.normal(size=(QUERIES, 16)).astype(np.float32) / 10
    for name, first in (("bundle", 0), ("other", 1_000_000)):
        ids = np.arange(first, first + N)
        export_index(folder / "run", folder / "x.npy", folder / name, shards=SHARDS, ids=ids)
        with open_bundle(folder / name) as bundle, bundle.in_use() as generation:
            answers = [bundle.search(query[None], K)[0] for query in queries]
            expected[generation.name] = [[(hit.id, hit.score) for hit in hits] for hits in answers]
    return queries.tolist(), expected


class _service:
    """`mecoq-faiss serve --ray local`, ended with the block; gives its address."""

    def __init__(self, bundle: Path, replicas: int) -> None:
        self.port = 18_000 + os.getpid() % 10_000
        command = [sys.executable, "-m", "mecoq_faiss_cli.main", "serve", str(bundle), "--ray", "local"]
        self.process = subprocess.Popen([*command, "--replicas", str(replicas), "--port", str(self.port)])

    def __enter__(self) -> str:
        url = f"http://127.0.0.1:{self.port}"
        until = time.monotonic() + 180
        while time.monotonic() < until:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    return url
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        self.__exit__()
        raise TimeoutError("the service did not come up")

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


if __name__ == "__main__":
    sys.exit(main())
