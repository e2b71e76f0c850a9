"""One measurement: what runs, in which processes, what it would take, and why it is left out where that is lacking."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale.apart import together
from benchmarks.speed.measure import Row

SPARE = 0.85  # of the memory and the disk that are free, at most so much is taken


@dataclass(frozen=True)
class Options:
    """What the parts of `measure` are told."""

    sizes: Sequence[int]
    bytes: Sequence[int]
    workers: Sequence[int]
    backbones: Sequence[str]
    folder: str | None
    patience: float
    divisor: int  # of the numbers of images and steps: for a try


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        name: what is measured.
        settings: its conditions; they begin its row.
        work: MODULE:FUNCTION, see `apart`.
        jobs: arguments, of a process each.
        memory: bytes that all processes take at once, about.
        disk: bytes of files at once, about.
        seconds: how long it takes, about.
    """

    name: str
    settings: Row
    work: str
    jobs: Sequence[Row]
    memory: float = 1e9
    disk: float = 0.0
    seconds: float = 0.0

    def lacking(self, options: Options) -> str | None:
        """Why it cannot be measured here."""
        if self.memory > SPARE * (free := _free_memory()):
            return f"wants {self.memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"
        folder = options.folder or tempfile.gettempdir()
        if self.disk > SPARE * (free := shutil.disk_usage(folder).free):
            return f"wants {self.disk / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free"
        if self.seconds > options.patience:
            return f"would take about {self.seconds:.0f} s, more than --patience {options.patience:g}"
        return None

    def measure(self) -> Row:
        """Its row: of several processes all they did over the longest time, and the largest of their peaks."""
        load = os.getloadavg()[0]
        rows = together(self.work, self.jobs)
        row = dict(rows[0]) if len(rows) == 1 else {name: max(r[name] for r in rows) for name in rows[0]}
        if "n" in row:
            row["n"] = sum(r["n"] for r in rows)
            row["per_second"] = row["n"] / row["seconds"]
            row["per_second_a_core"] = row["per_second"] / min(len(rows), os.cpu_count() or 1)
        return {"what": self.name, **self.settings, **row, "load_before": load}


def _free_memory() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * float(line.split()[1])
    raise OSError("no MemAvailable in /proc/meminfo: this benchmark needs Linux")
