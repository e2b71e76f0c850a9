"""The opened files of one export in one folder: a whole bundle, or a shard of one."""

from __future__ import annotations

import os
from contextlib import ExitStack

import faiss
import numpy as np

from mecoq_faiss.bundle.columns import Classes
from mecoq_faiss.bundle.folder import Pinned
from mecoq_faiss.bundle.items import Items, items_in, segment_names
from mecoq_faiss.bundle.metadata import metadata_in
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.where import rows_where
from mecoq_faiss.index.inspect import make_reconstructable, without_ids


class Shard:
    """Index, items and metadata of a folder, which stay open until `close`, whatever takes its place.

    Attributes:
        index: plain FAISS; by_row: the same, returning positions.
        items, ids, codes, classes: of each item.
        metadata: or None.
    """

    def __init__(self, files: Pinned) -> None:
        with ExitStack() as stack:
            self.index: faiss.Index = index_in(files)
            make_reconstructable(self.index)
            self.by_row = without_ids(self.index)
            names = segment_names(files.manifest)
            kept = [stack.enter_context(open(os.dup(files.file(name).fileno()), "rb")) for name in names]
            with items_in(files) as items:
                removed = items.removed
            self.items = stack.enter_context(Items(kept, removed))  # the other files are closed
            ids, codes = self.items.column("ids"), self.items.lazy("codes")
            assert ids is not None and codes is not None
            self.ids, self.codes = ids, codes  # memory maps, where all items lie in one file
            self.classes = Classes(self.items)
            self.metadata = metadata_in(files)
            if self.metadata is not None:
                name, number = self.metadata.name, self.metadata.file.fileno()
                again = stack.enter_context(open(name, "rb", opener=lambda *_: os.dup(number)))
                self.metadata = self.metadata._replace(file=again)
            self._files = stack.pop_all()

    def __len__(self) -> int:
        return len(self.ids)

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    def rows_where(self, expression: str, columns: dict[str, str]) -> np.ndarray:
        """The rows for which an expression is true; of `columns` that only other shards have, an item has none."""
        return rows_where(expression, self.items, self.metadata, columns)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows (m,) int64 of the items with some ids; ids that no item has are passed over."""
        return np.flatnonzero(np.isin(self.ids, ids))
