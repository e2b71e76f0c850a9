"""RemoteGeneration: an export whose shards are open in other processes, searched as if they were here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mecoq_faiss.bundle.folder import Pinned
from mecoq_faiss.bundle.generation import Generation, export_name
from mecoq_faiss.bundle.shard import Where
from mecoq_faiss.index.merged import MergedShards

if TYPE_CHECKING:
    import torch

Ask = Callable[..., Any]  # of a `ShardServer`: the method's name and its arguments; PartLost where nobody answers


class RemoteGeneration(Generation):
    """An export of which this process has the encoder, and the replicas of its shards the rest.

    Args:
        path: the bundle, which all see under this name.
        device: of the encoder.
        runtime: likewise.
        ask_of: the `Ask` of a shard's folder.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device, runtime: str, ask_of: Callable[[Path], Ask]
    ) -> None:
        self._ask_of = ask_of
        super().__init__(path, device, runtime)

    def _opened(self, files: Pinned) -> RemoteShard:
        return RemoteShard(self._ask_of(files.bundle), export_name(files.manifest))

    def _searcher(self, parts: list[Any]) -> MergedShards:
        return MergedShards(parts, at_once=len(parts))


class RemoteShard:
    """A `bundle.shard.Shard` in the replicas that `ask` reaches."""

    def __init__(self, ask: Ask, export: str) -> None:
        self._ask, self._export = ask, export
        self._said = ask("describe", export)
        self.codebooks: np.ndarray = self._said["codebooks"]
        self.fingerprint: str = self._said["fingerprint"]
        self.has_classes: bool = self._said["has_classes"]
        self.metadata_columns: dict[str, str] = self._said["metadata_columns"]

    def __len__(self) -> int:
        return self._said["items"]

    def part(self, where: Where, columns: dict[str, str]) -> RemotePart:
        """See `Shard`."""
        count = self._said["total"] if where is None else self._ask("count", self._export, where, columns)
        return RemotePart(self._ask, self._export, where, columns, self._said, count)

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return self._ask("ask", self._export, "paths", rows)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return self._ask("ask", self._export, "ids", rows)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return self._ask("ask", self._export, "labels", rows)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return self._ask("ask", self._export, "codes", rows)

    def metadata(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """See `Shard`."""
        return self._ask("ask", self._export, "metadata", ids) if self.metadata_columns else {}

    def row_of(self, id: int) -> int | None:
        """See `Shard`."""
        return self._ask("ask", self._export, "row_of", id)

    def close(self) -> None:
        """The replicas let go of it when another is asked for."""


class RemotePart:
    """An `index.part.Part` in the replicas that `ask` reaches."""

    def __init__(
        self, ask: Ask, export: str, where: Where, columns: dict[str, str], said: dict[str, Any], count: int
    ) -> None:
        self._ask, self._export, self._where, self._columns, self._count = ask, export, where, columns, count
        self.total, self.form = said["total"], said["form"]

    def __len__(self) -> int:
        return self._count

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Part`."""
        return self._ask("search", self._export, self._where, self._columns, xq, k)

    def lists(self, rows: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return self._ask("lists", self._export, rows)

    def visited(self, xq: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return self._ask("visited", self._export, xq)

    def exact(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return self._ask("exact", self._export, x, rows)
