"""What a replica of one shard answers: searches of its index, and what its items are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.generation import FILTERS, export_name
from mecoq_faiss.bundle.shard import OpenShard, Replaced, Where
from mecoq_faiss.index.part import IndexPart

KEPT = 2  # exports that are open: the one that goes and the one that comes
ASKED = ("paths", "ids", "labels", "codes", "metadata", "row_of")


class ShardServer:
    """Answers for the shard in a folder, from several threads; `export` names the one that is meant.

    An export is opened when it is first asked for, where it lies in the folder then; else `Replaced` is raised.

    Args:
        folder: of a shard, or of a bundle without shards, that all nodes see under this name.
        threads: of FAISS.
    """

    def __init__(self, folder: str, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._folder = Path(folder)
        self._open: OrderedDict[str, tuple[OpenShard, OrderedDict[str | None, IndexPart]]] = OrderedDict()
        self._opening = threading.Lock()
        self._of(None)  # a replica is asked when this is done

    def describe(self, export: str) -> dict[str, Any]:
        """What a `Shard`, and a part of all its rows, say of themselves."""
        shard, _ = self._of(export)
        part = self._part(export, None, {})
        said = {name: getattr(shard, name) for name in ("codebooks", "fingerprint", "has_classes", "metadata_columns")}
        return {**said, "items": len(shard), "total": part.total, "form": part.form}

    def count(self, export: str, where: Where, columns: dict[str, str]) -> int:
        """How many rows fit `where`."""
        return len(self._part(export, where, columns))

    def search(
        self, export: str, where: Where, columns: dict[str, str], xq: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Part.search`."""
        return self._part(export, where, columns).search(xq, k)

    def lists(self, export: str, rows: np.ndarray) -> np.ndarray:
        """See `Part.lists`."""
        return self._part(export, None, {}).lists(rows)

    def visited(self, export: str, xq: np.ndarray) -> np.ndarray:
        """See `Part.visited`."""
        return self._part(export, None, {}).visited(xq)

    def exact(self, export: str, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See `Part.exact`."""
        return self._part(export, None, {}).exact(np.ascontiguousarray(x), rows)

    def ask(self, export: str, what: str, argument: Any) -> Any:
        """What a `Shard` says of rows or ids: one of ASKED."""
        assert what in ASKED
        return getattr(self._of(export)[0], what)(argument)

    def _part(self, export: str, where: Where, columns: dict[str, str]) -> IndexPart:
        shard, parts = self._of(export)
        if not (where is None or isinstance(where, str)):
            return shard.part(where, columns)
        with self._opening:
            if where not in parts:
                parts[where] = shard.part(where, columns)
                for old in [name for name in parts if name is not None][:-FILTERS]:
                    del parts[old]
            return parts[where]

    def _of(self, export: str | None) -> tuple[OpenShard, OrderedDict[str | None, IndexPart]]:
        """The open shard of an export, and its parts; of None what lies in the folder."""
        with self._opening:
            if export is None or export not in self._open:
                with pinned(self._folder) as files:
                    there = export_name(files.manifest)
                    if export not in (None, there):
                        raise Replaced(f"another export has taken the place of {self._folder.name}")
                    export = there
                    self._open[export] = OpenShard(files), OrderedDict()
                while len(self._open) > KEPT:
                    self._open.popitem(last=False)  # closed when the last search of it is done
            return self._open[export]
