"""connected(): within, this process works with a Ray: one of its own, or a cluster that is there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mecoq_faiss.cluster.quiet import brief, silent

LOCAL = "local"
ANSWER_SECONDS = 10.0
STORE_BYTES = 1 << 28  # of a Ray of our own: through its object store go the model and a line for each shard


def import_ray() -> Any:
    """Ray, or an ImportError of one line."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(
            f"--ray needs Ray, and {error.name} is not installed: pip install 'mecoq-faiss[cluster]'"
        ) from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Within, Ray is there for this process; gives the package.

    Args:
        address: `local` starts a Ray on this machine, which ends with the block; `auto` or HOST:PORT is a cluster of
            which this machine is a node. In a program that is connected already, its Ray is used and stays.

    Raises:
        ImportError: no Ray.
        ConnectionError: no cluster there.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    on_term = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what it prints here; its errors are raised as well
    of_own: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        of_own = {"num_cpus": _cores() + 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        _check_reachable(address)
        with silent():
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **of_own)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        mend = "look at /tmp/ray" if address == LOCAL else "start one with `ray start --head`, or give --ray local"
        if "AuthenticationError" in "".join(traceback.format_exception(error)):
            mend = (
                "set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token, or give --ray auto on a node"
            )
        raise ConnectionError(f"no Ray at {address} ({reason}): {mend}") from error
    try:
        with brief(), _terminated_by(signal.SIGTERM, on_term):
            yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """OSError where nobody answers at HOST:PORT; Ray would try for minutes, and then end the process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


@contextmanager
def _terminated_by(number: int, before: Any) -> Iterator[None]:
    """The signal ends the block like any error, then what was `before` counts again; Ray's own end is an abort."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    signal.signal(number, lambda *_: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
