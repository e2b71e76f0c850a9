"""Training on several ranks of this machine: steps a second, and bytes that a rank receives in a step. Linux.

python -m benchmarks.speed ranks [--ranks N] [--batch B] [--steps S]

Steps on cached views of 1024 features, gloo over loopback. N ranks of one thread each are timed beside one process with
N threads. Bytes are those that the kernel counts on a rank's TCP connections. Their lower bound: of every batch the
other ranks' keys and embeddings once, of a rank's own keys the other ranks' gradients once, and of all parameters'
gradients what any all-reduce must move, 2 (N - 1) / N of them.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Any

import numpy as np
import torch
import torch.multiprocessing

from benchmarks.speed.measure import Row, arguments, finish, goal, show
from benchmarks.speed.steps import make_trainer, run
from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
from mecoq_faiss.runtime.ranks import joined
from mecoq_faiss.training.pairs import CachedPairs
from mecoq_faiss.training.trainer import Trainer

FEATURES = 1024
TCP_RECEIVED = slice(128, 136)  # tcpi_bytes_received in Linux's struct tcp_info


def received() -> int:
    """Bytes that have come on this process's open TCP connections."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # no socket, or no TCP
            continue
        if len(info) >= TCP_RECEIVED.stop:
            total += struct.unpack("=Q", info[TCP_RECEIVED])[0]
    return total


def least_bytes(trainer: Trainer, ranks: int) -> float:
    """What a rank must receive in a step of a batch that `ranks` divides."""
    N, D, size = trainer.pairs.batch_size, trainer.step.model.config.D, 4  # type: ignore[attr-defined]
    gradients = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    gathered = (N - N / ranks) * 3 * D  # keys of both views, the first view's embedding
    scattered = (ranks - 1) * N / ranks * 2 * D
    return size * (gathered + scattered + 2 * (ranks - 1) / ranks * gradients)


def measured(batch: int, steps: int, threads: int) -> Row:
    """Seconds a step on this rank, the bytes it receives in one and their lower bound."""
    torch.set_num_threads(threads)
    with joined("cpu") as (ranks, _):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        features = rng.normal(size=(batch * steps, 2, FEATURES)).astype(np.float16)
        config = TrainConfig(batch_size=batch, memory_start_epoch=1, preserve_weight=0.0)
        model = MeCoQ(ModelConfig(backbone="features", weights="none", feature_dim=FEATURES))
        trainer = make_trainer(model, CachedPairs(features, batch, 0, "cpu"), config, ranks)
        run(trainer)  # connects, allocates; fills the memory
        ranks.wait()
        before, started = received(), time.perf_counter()
        run(trainer)
        seconds = time.perf_counter() - started
        return {
            "ranks": ranks.size,
            "threads of each": threads,
            "steps a second": steps / seconds,
            "bytes a step": (received() - before) / steps,
            "least bytes": least_bytes(trainer, ranks.size),
        }


def together(size: int, *args: Any) -> Row:
    """The first rank's figures of `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(rank, size, port, results, *args)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a rank has failed: see above")
    return results.get()


def _rank(rank: int, size: int, port: int, results: Any, *args: Any) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    row = measured(*args)
    if rank == 0:
        results.put(row)


def main() -> None:
    parser = arguments(__doc__, "ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    best: dict[str, Row] = {}
    sides = {"one": (1, a.batch, a.steps, a.ranks), "several": (a.ranks, a.batch, a.steps, 1)}
    for turn in range(a.repeats):  # the sides take turns, each at times the first
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            row = together(*sides[name])
            if name not in best or row["steps a second"] > best[name]["steps a second"]:
                best[name] = row
    one, several = best["one"], best["several"]
    show(f"steps of batch {a.batch}", [one, several])
    goals = [
        goal(
            f"steps a second, {a.ranks} ranks x 1 thread / 1 rank x {a.ranks} threads",
            several["steps a second"] / one["steps a second"],
            at_least=0.9,
        ),
        goal("bytes received / their lower bound", several["bytes a step"] / several["least bytes"], at_most=1.1),
    ]
    finish(a.out, a, goals, steps=[one, several])


if __name__ == "__main__":
    main()
