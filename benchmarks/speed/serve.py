"""The service beside its parts called directly: many clients at once, and one.

python -m benchmarks.speed serve --bundle B --queries FOLDER [--clients 32] [--seconds 8] [--repeats 3]

The limit is `encoder.encode` of 64 image files at once and `index.search`, in one process with all threads; of one
client, the same with one image. The clients run on the same machine: what little they take counts against it.
Both sides take turns.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import httpx
import numpy as np

from benchmarks.speed.load import load
from benchmarks.speed.measure import Row, arguments, finish, goal, show, use_threads
from mecoq_faiss import load_encoder
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.data.images import IMAGE_TYPES

K, IMAGES = 10, 256
START_SECONDS = 120.0


def direct(encoder: Any, index: Any, images: Sequence[bytes], batch: int, seconds: float) -> Row:
    """Queries a second, and the latency of a batch in ms, of the encoder and the index in this process."""
    latencies, done, number = [], 0, 0
    end = time.perf_counter() + seconds
    begin = time.perf_counter()
    while (started := time.perf_counter()) < end:
        chosen = [images[(number + i) % len(images)] for i in range(batch)]
        index.search(encoder.encode(chosen), K)
        latencies.append(time.perf_counter() - started)
        done, number = done + batch, number + batch
    return {"per_s": done / (time.perf_counter() - begin), "p50_ms": float(np.median(latencies) * 1000)}


class Service:
    """`mecoq-faiss serve` in a process of its own, until `stop`."""

    def __init__(self, bundle: Path, workers: int, runtime: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mecoq_faiss_cli.main", "serve", str(bundle), "--port", str(port)]
        self._process = subprocess.Popen([*command, "--workers", str(workers), "--runtime", runtime])
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise OSError("the service did not start")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    parser = arguments(__doc__, "serve")
    parser.set_defaults(threads=os.cpu_count() or 1)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True, help="folder of images to search with")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=-1, help="decoding processes of the service")
    parser.add_argument("--runtime", choices=["torch", "onnx"], default="torch", help="of both sides")
    a = parser.parse_args()
    use_threads(a.threads)
    files = sorted(path for path in a.queries.rglob("*") if path.suffix.lower() in IMAGE_TYPES)
    images = [path.read_bytes() for path in files[:: max(1, len(files) // IMAGES)][:IMAGES]]
    encoder, index = load_encoder(a.bundle, runtime=a.runtime), faiss.read_index(str(a.bundle / "index.faiss"))
    direct(encoder, index, images, ENCODE_BATCH, 2)  # warm
    service = Service(a.bundle, a.workers, a.runtime)
    rows: list[Row] = []
    try:
        sides: dict[str, Callable[[], tuple[Row, Row]]] = {
            "direct": lambda: (direct(encoder, index, images, ENCODE_BATCH, a.seconds),
                               direct(encoder, index, images[:1], 1, a.seconds)),
            "service": lambda: (load(service.url, images[0], K, a.clients, a.seconds),
                                load(service.url, images[0], K, 1, a.seconds)),
        }  # fmt: skip
        sides["service"]()  # warm
        for turn in range(a.repeats):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                for clients, found in zip((a.clients, 1), sides[name](), strict=True):
                    none = {"p99_ms": None, "failures": None}
                    rows.append({"turn": turn, "side": name, "clients": clients, **none, **found})
    finally:
        service.stop()

    def those(side: str, clients: int) -> list[Row]:
        return [row for row in rows if (row["side"], row["clients"]) == (side, clients)]

    best = {side: max(row["per_s"] for row in those(side, a.clients)) for side in sides}
    latency = {side: min(row["p50_ms"] for row in those(side, 1)) for side in sides}
    tail = min(row["p99_ms"] / row["p50_ms"] for row in those("service", a.clients))
    more = latency["service"] - 1.1 * latency["direct"]
    show("the best of all turns", [
        {"side": name, "queries_per_s": best[name], "one client, ms": latency[name]} for name in best
    ])  # fmt: skip
    goals = [
        goal(f"rate at {a.clients} clients / direct, in batches", best["service"] / best["direct"], at_least=0.9),
        goal(f"p99 / p50 at {a.clients} clients", tail, at_most=10),
        goal("one client: ms more than 1.1 times direct", more, at_most=3),
    ]
    config = json.loads((a.bundle / "encoder" / "config.json").read_text(encoding="utf-8"))["model"]
    a.backbone, a.image_size, a.items = config["backbone"], config["image_size"], index.ntotal
    finish(a.out, a, goals, load=rows)
