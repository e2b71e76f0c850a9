"""The measured rates as costs and limits need them: of the largest size, and between sizes by arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.scale.madeup import WIDTH
from benchmarks.speed.measure import Row
from mecoq_faiss.index.inverted_lists import default_nlist, default_nprobe


class Rates:
    """What `measure` wrote; each figure is of one core of that machine.

    Raises:
        ValueError: a measurement is missing, in one line that says how to get it.
    """

    def __init__(self, content: Row) -> None:
        self.parts: Row = content["parts"]

    @classmethod
    def read(cls, path: Path) -> Rates:
        if not path.is_file():
            raise ValueError(f"no rates at {path}: run python -m benchmarks.scale measure")
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def rows(self, part: str, **settings: Any) -> list[Row]:
        """The rows of a part with these settings, at least one."""
        found = [r for r in self.parts.get(part, []) if all(r.get(name) == value for name, value in settings.items())]
        if not found:
            wanted = ", ".join(f"{name} {value}" for name, value in settings.items())
            raise ValueError(f"not measured: {wanted}; run python -m benchmarks.scale measure --parts {part}")
        return found

    def largest(self, part: str, by: str = "n", **settings: Any) -> Row:
        return max(self.rows(part, **settings), key=lambda row: row[by])

    def images(self, backbone: str) -> float:
        """Images a second from files to codes."""
        return self.rows("encoding", what="files to codes", backbone=backbone, workers=1)[0]["per_second"]

    def views(self, backbone: str) -> float:
        return self.rows("training", what="views into the cache", backbone=backbone)[0]["per_second"]

    def steps(self) -> tuple[int, float]:
        """Images of a step, and steps a second."""
        row = self.rows("training", what="steps on cached features")[0]
        return row["batch"], row["per_second"]

    def built(self, kind: str, num_bytes: int) -> float:
        """Codes a second into an exhaustive index."""
        row = self.largest("building", what="build", kind=kind, num_bytes=num_bytes)
        return row["n"] / row["build_s"]

    def filled(self) -> float:
        """Codes a second into lists that are known."""
        return self.largest("building", what="build", kind="ivfpq")["fill_per_s"]

    def macs(self, num_bytes: int, nlist: float) -> float:
        """Multiply-adds a second of finding the nearest of `nlist` centroids; between measured numbers interpolated."""
        rows = sorted(self.rows("building", what="assign", num_bytes=num_bytes), key=lambda row: row["nlist"])
        return float(
            np.interp(math.log2(nlist), [math.log2(r["nlist"]) for r in rows], [r["macs_per_s"] for r in rows])
        )

    def scan(self, kind: str, num_bytes: int) -> float:
        """Seconds a code that an exhaustive search of one query takes."""
        row = self.largest("searching", what="search", kind=kind, num_bytes=num_bytes)
        return row["alone_ms"] / 1000 / row["n"]

    def lists(self, num_bytes: int) -> tuple[float, float, float]:
        """Seconds a query of an inverted file: a multiply-add of finding lists, a code of scanning them.

        Both at least 0, by least squares of the relative errors; the third is the largest of those.
        """
        rows = self.rows("searching", what="search", kind="ivfpq", num_bytes=num_bytes)
        if len(rows) < 2:
            raise ValueError("ivfpq was searched at one size only: run measure --parts searching with more --sizes")
        work = [[r["nlist"] * WIDTH * num_bytes, r["nprobe"] * r["n"] / r["nlist"]] for r in rows]
        seconds = np.array([r["alone_ms"] / 1000 for r in rows])
        A = np.array(work) / seconds[:, None]
        (a, b), _ = nnls(A, np.ones(len(rows)))
        return float(a), float(b), float(np.abs(A @ (a, b) - 1).max())

    def bytes(self, kind: str, what: str, num_bytes: int) -> float:
        """Bytes a code, in the file or in memory: of the measured code, and what another size adds to it."""
        row = self.largest("files", what="open", kind=kind)
        return row[what] + num_bytes - row["num_bytes"]

    def disk(self) -> tuple[float, float]:
        """Bytes a second written with fsync, and read."""
        row = self.rows("files", what="disk")[0]
        return row["write_bytes_per_s"], row["read_bytes_per_s"]


def search_seconds(rates: Rates, kind: str, num_bytes: int) -> Callable[[float], float]:
    """Core seconds of a query over the codes of one shard."""
    if kind != "ivfpq":
        each = rates.scan(kind, num_bytes)
        return lambda n: each * n
    a, b, _ = rates.lists(num_bytes)

    def of_lists(n: float) -> float:
        nlist = default_nlist(int(n))
        return a * nlist * WIDTH * num_bytes + b * default_nprobe(nlist) * n / nlist

    return of_lists
