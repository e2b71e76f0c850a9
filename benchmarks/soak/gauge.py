"""Memory and open files of a process and its children, and by how much they grow. Linux."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

WARM = 0.2  # share of the work after which growth counts: caches and pools have filled


class Gauge:
    """Samples taken while work goes on; `growth` says what a line through them rises by.

    Memory is anonymous pages: those of mapped files the system lets go of when it wants to.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int, int]] = []  # work done, bytes, bytes of children, open files

    def sample(self, done: float) -> None:
        """Record how things stand after so much work."""
        children = sum(anonymous(pid) for pid in _children())
        self.samples.append((done, anonymous(os.getpid()), children, len(os.listdir("/proc/self/fd"))))

    def growth(self) -> dict[str, Any]:
        """First, last, most and slope (over all of the work) of each, past the start."""
        done, *columns = np.array([row for row in self.samples if row[0] >= WARM * self.samples[-1][0]], float).T
        names = ("memory_mb", "children_mb", "open_files")
        return {
            name: {
                "first": round(float(values[0]), 2), "last": round(float(values[-1]), 2),
                "most": round(float(values.max()), 2),
                "slope": round(float(np.polyfit(done / done[-1], values, 1)[0]), 3),
            }
            for name, values in zip(names, (columns[0] / 1e6, columns[1] / 1e6, columns[2]), strict=True)
        } | {"samples": len(done)}  # fmt: skip


def anonymous(pid: int) -> int:
    """RssAnon of a process in bytes; 0 of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text(encoding="utf-8").split()]
        except OSError:  # the thread has ended
            continue
    return found
