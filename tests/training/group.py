"""on_ranks(): a function run by several processes of one process group, on this machine's loopback."""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.multiprocessing

from mecoq_faiss.runtime.ranks import joined


def on_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)` returns on each rank, in a process of its own with the environment that torchrun gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kinds = torch.multiprocessing.get_all_start_methods()
    context: Any = torch.multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(["mecoq_faiss.jobs.train"])  # once instead of on each rank
    results = context.Queue()
    processes = [context.Process(target=_run, args=(rank, size, port, results, function, args)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        found: dict[int, Any] = {}
        while len(found) < size:
            with suppress(queue.Empty):
                found |= [results.get(timeout=1)]
                continue
            died = [process.exitcode for process in processes if process.exitcode]
            assert not died, f"a rank has ended with {died[0]}, without a word"
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    for result in found.values():
        if isinstance(result, BaseException):
            raise result
    return [found[rank] for rank in range(size)]


def _run(rank: int, size: int, port: int, results: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    try:
        with joined("cpu"):
            results.put((rank, function(*args)))
    except BaseException as error:
        results.put((rank, error))
