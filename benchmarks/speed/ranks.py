"""Training on several ranks of this machine: steps a second, and bytes that a rank receives in a step. Linux.

python -m benchmarks.speed ranks [--ranks N] [--batch B] [--steps S] [--network NAME]

N ranks of one thread each are timed beside one process with N threads, gloo over loopback, twice: the default recipe on
cached views of 1024 features, and a network all of whose layers learn, on images. Bytes are those that the kernel
counts on a rank's TCP connections. Their lower bound: of every batch the other ranks' keys and embeddings once, of a
rank's own keys the other ranks' gradients once, and of all parameters' gradients what any all-reduce must move,
2 (N - 1) / N of them.
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
from benchmarks.speed.steps import SamePair, make_trainer, run
from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
from mecoq_faiss.runtime.ranks import Ranks, joined
from mecoq_faiss.training.batch_norm import share_statistics
from mecoq_faiss.training.pairs import CachedPairs, Pair
from mecoq_faiss.training.targets import Targets
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


def measured(network: str, batch: int, steps: int, size: int, threads: int) -> Row:
    """Seconds a step on this rank, the bytes it receives in one and their lower bound."""
    torch.set_num_threads(threads)
    with joined("cpu") as (ranks, _):
        torch.manual_seed(0)
        trainer = (_of_images if network else _of_features)(network, batch, steps, size, ranks)
        run(trainer)  # connects, allocates; fills the memory
        ranks.wait()
        before, started = received(), time.perf_counter()
        run(trainer)
        seconds = time.perf_counter() - started
        return {
            "learns": network or "the head",
            "batch": batch,
            "ranks": ranks.size,
            "threads of each": threads,
            "steps a second": steps / seconds,
            "bytes a step": (received() - before) / steps,
            "least bytes": least_bytes(trainer, ranks.size),
        }


def _of_features(network: str, batch: int, steps: int, size: int, ranks: Ranks) -> Trainer:
    """The default recipe of a head on cached views."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch * steps, 2, FEATURES)).astype(np.float16)
    model = MeCoQ(ModelConfig(backbone="features", weights="none", feature_dim=FEATURES))
    pairs, targets = CachedPairs(features, batch, 0, "cpu"), Targets(features, np.arange(len(features)), "cpu")
    return make_trainer(model, pairs, TrainConfig(batch_size=batch, memory_start_epoch=1), ranks, targets)


def _of_images(network: str, batch: int, steps: int, size: int, ranks: Ranks) -> Trainer:
    """The same of a network that learns, on images that are in memory."""
    model = MeCoQ(ModelConfig(network, "none", trainable_layers=-1, image_size=size))
    share_statistics(model, ranks)
    views = [torch.rand(batch, 3, size, size) for _ in range(2)]
    config = TrainConfig(batch_size=batch, memory_start_epoch=1)
    targets = Targets(np.random.default_rng(0).normal(size=(batch, FEATURES)), np.arange(batch), "cpu")
    return make_trainer(model, SamePair(Pair(views[0], views[1]), steps), config, ranks, targets)


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
    parser.add_argument("--batch", type=int, default=512, help="of cached views")
    parser.add_argument("--steps", type=int, default=40, help="of the head alone")
    parser.add_argument("--network", default="timm:mobilenetv1_100", help="that learns")
    parser.add_argument("--images", type=int, default=64, help="a batch of it")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--network-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    rows, goals = [], []
    for case in (("", a.batch, a.steps, 0), (a.network, a.images, a.network_steps, a.image_size)):
        best: dict[str, Row] = {}
        sides = {"one": (1, *case, a.ranks), "several": (a.ranks, *case, 1)}
        for turn in range(a.repeats):  # the sides take turns, each at times the first
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                row = together(*sides[name])
                if name not in best or row["steps a second"] > best[name]["steps a second"]:
                    best[name] = row
        one, several = best["one"], best["several"]
        rows += [one, several]
        goals += [
            goal(
                f"{one['learns']}: steps a second, {a.ranks} ranks x 1 thread / 1 rank x {a.ranks} threads",
                several["steps a second"] / one["steps a second"],
                at_least=0.9,
            ),
            goal(
                f"{one['learns']}: bytes received / their lower bound",
                several["bytes a step"] / several["least bytes"],
                at_most=1.1,
            ),
        ]
    show("steps", rows)
    finish(a.out, a, goals, steps=rows)


if __name__ == "__main__":
    main()
