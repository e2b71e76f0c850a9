"""What hostile files may cost: an error in one line that names them, in little memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOM = 1 << 30  # address space beyond what is in use; the files here claim far more, and threads need some


@contextmanager
def bounded() -> Iterator[None]:
    """Within it no more than `ROOM` is to be had (on Linux): more is a MemoryError, or one that FAISS makes of it."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(call: Callable[[], object], *names: str) -> str:
    """What `call` says when it refuses: a ValueError or OSError of one line, with one of these names in it."""
    with bounded(), pytest.raises((ValueError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700, message
    assert any(name in message for name in names), message
    return message
