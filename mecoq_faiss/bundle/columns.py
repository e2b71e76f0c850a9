"""The columns of items as tables of DuckDB: what items have by themselves, and the user's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mecoq_faiss.bundle.items import Items
from mecoq_faiss.bundle.metadata import Metadata
from mecoq_faiss.storage.table import named, place, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

ROWS = 1 << 18  # items looked at together, where their paths are not read
ROW = "_row"


class Classes:
    """The class names of items, read when they are asked for."""

    def __init__(self, items: Items) -> None:
        self._items = items

    @cached_property
    def _read(self) -> tuple[np.ndarray, np.ndarray] | None:
        labels, names = self._items.labels()
        if labels is None or labels.ndim != 1 or not names:
            return None
        return labels, np.array([*names, None], dtype=object)

    def __bool__(self) -> bool:
        """Whether each item has a class, and no more than one."""
        return self._read is not None

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The classes of some rows, (m,) str; None for a number that no class has."""
        assert self._read is not None
        labels, names = self._read
        known = (labels[rows] >= 0) & (labels[rows] < len(names) - 1)
        return names[np.where(known, labels[rows], len(names) - 1)]


def blocks(items: Items, *, paths: bool, classes: Classes | None) -> Iterator[dict[str, np.ndarray]]:
    """`_row`, `id` and, where wanted, `path` and `label` of all items, some at a time."""
    starts = range(0, len(items), ROWS)
    pieces: Any = ((np.arange(start, min(len(items), start + ROWS)), None) for start in starts)
    for rows, texts in items.each_path() if paths else pieces:
        block = {ROW: rows, "id": items.ids[rows]}
        if texts is not None:
            block["path"] = np.array(texts, dtype=object)
        if classes is not None:
            block["label"] = classes.of(rows)
        yield block


def with_metadata(
    connection: DuckDBPyConnection, block: dict[str, np.ndarray], metadata: Metadata | None, wanted: Sequence[str]
) -> DuckDBPyRelation:
    """A block beside the wanted columns of the metadata, NULL where an item has none."""
    connection.register("block", block)
    if metadata is None or not wanted:
        return connection.sql("FROM block")
    ids = block["id"]
    return connection.sql(
        f"SELECT block.*, t.* EXCLUDE (id) FROM block LEFT JOIN (SELECT id, {', '.join(map(named, wanted))} "
        f"FROM read_parquet({quoted(place(metadata.file))}) WHERE id BETWEEN {ids.min()} AND {ids.max()}) t "
        "ON t.id = block.id"
    )
