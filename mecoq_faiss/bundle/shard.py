"""The opened files of one export in one folder: a whole bundle, or a shard of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import faiss
import numpy as np

from mecoq_faiss.bundle.columns import Classes
from mecoq_faiss.bundle.folder import Pinned
from mecoq_faiss.bundle.items import Items, items_in, segment_names
from mecoq_faiss.bundle.metadata import metadata_in, metadata_of
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.where import rows_where
from mecoq_faiss.index.inspect import make_reconstructable, read_codebooks, without_ids
from mecoq_faiss.index.part import IndexPart, Part, fingerprint

Where = str | np.ndarray | None  # a condition, or ids (m,) of integers; None for all


class Replaced(ValueError):
    """Another export has taken the place of the one that is asked for."""


class Shard(Protocol):
    """What a search asks of the items of one folder, wherever they are; rows count from 0 in each shard.

    Attributes:
        codebooks: (M, K, d) float32, of its index.
        has_classes: whether each item has a class.
        metadata_columns: of each column DuckDB's type.
    """

    codebooks: np.ndarray
    has_classes: bool
    metadata_columns: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """See `index.part.fingerprint`."""

    def __len__(self) -> int:
        """How many items there are."""

    def part(self, where: Where, columns: dict[str, str]) -> Part:
        """The rows that fit `where`; of `columns` that only other shards have, an item has none."""

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """The paths of some rows (m,), str."""

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """Their ids (m,) int64."""

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Their classes (m,) str; None where items have none, or several."""

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Their codes (m, M) uint8."""

    def metadata(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The metadata of the items with these ids, by id."""

    def row_of(self, id: int) -> int | None:
        """The row of the item with an id; None where there is none."""

    def close(self) -> None:
        """Let go of it."""


class OpenShard:
    """A `Shard` in this process: the files of a folder, which stay open until `close`, whatever takes its place.

    `index` is plain FAISS.
    """

    def __init__(self, files: Pinned) -> None:
        with ExitStack() as stack:
            self.index: faiss.Index = index_in(files)
            make_reconstructable(self.index)
            self._by_row = without_ids(self.index)
            self.codebooks = read_codebooks(self._by_row)
            names = segment_names(files.manifest)
            kept = [stack.enter_context(open(os.dup(files.file(name).fileno()), "rb")) for name in names]
            with items_in(files) as items:
                removed = items.removed
            self._items = stack.enter_context(Items(kept, removed))  # the other files are closed
            ids, codes = self._items.column("ids"), self._items.lazy("codes")
            assert ids is not None and codes is not None
            self._ids, self._codes = ids, codes  # memory maps, where all items lie in one file
            self._classes = Classes(self._items)
            self._metadata = metadata_in(files)
            if self._metadata is not None:
                name, number = self._metadata.name, self._metadata.file.fileno()
                again = stack.enter_context(open(name, "rb", opener=lambda *_: os.dup(number)))
                self._metadata = self._metadata._replace(file=again)
            self.has_classes = bool(self._classes)
            self.metadata_columns = {} if self._metadata is None else self._metadata.columns
            self._files = stack.pop_all()

    def __len__(self) -> int:
        return len(self._ids)

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    @property
    def fingerprint(self) -> str:
        """See `Shard`."""
        return fingerprint(self._by_row)

    def part(self, where: Where, columns: dict[str, str]) -> IndexPart:
        """See `Shard`."""
        if where is None:
            return IndexPart(self._by_row)
        if isinstance(where, str):
            return IndexPart(self._by_row, rows_where(where, self._items, self._metadata, columns))
        return IndexPart(self._by_row, np.flatnonzero(np.isin(self._ids, where)))

    def paths(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return np.array(self._items.paths(rows), object)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return np.asarray(self._ids[rows])

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return self._classes.of(rows) if self.has_classes else np.full(len(rows), None, object)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """See `Shard`."""
        return np.asarray(self._codes[rows])

    def metadata(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """See `Shard`."""
        return {} if self._metadata is None else metadata_of(self._metadata, ids)

    def row_of(self, id: int) -> int | None:
        """See `Shard`."""
        rows = np.flatnonzero(self._ids == id)
        return int(rows[0]) if len(rows) else None
