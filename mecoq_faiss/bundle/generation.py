"""One export of a bundle, opened and checked: what a search needs of it, whatever takes its place in the folder."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import Items, items_in, segment_names
from mecoq_faiss.bundle.metadata import metadata_in
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.where import rows_where
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.index.filtered import ChosenRows
from mecoq_faiss.index.inspect import without_ids

FILTERS = 4  # expressions whose rows are kept for the next search


class Hit(NamedTuple):
    """An item that a search found; a list of them is a table, e.g. `pandas.DataFrame(hits)`.

    Example:
        >>> from mecoq_faiss import Hit
        >>> Hit(rank=1, score=3.5, row=7, path="cat/7.jpg", id=107)._asdict()
        {'rank': 1, 'score': 3.5, 'row': 7, 'path': 'cat/7.jpg', 'id': 107}
    """

    rank: int  # from 1
    score: float  # AQS, in [-M, M]; of additive codes in about [-1, 1]
    row: int  # among the items as they are now; what an index without own ids returns
    path: str
    id: int  # the item's own, for ever: at first its row of the source, or what `--ids` gave it


class Generation:
    """The opened files of one export. Searches may run in several threads, until `close`.

    Raises FileNotFoundError or ValueError where the folder is no bundle, or damaged.

    Attributes:
        manifest, encoder: the bundle's.
        index: plain FAISS, as `faiss.read_index` gives it.
        users: searches under way; counted by whom it belongs to.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "auto") -> None:
        self.users = 0
        with ExitStack() as stack, pinned(path) as files:  # all of one export, although another may take its place
            self.manifest: dict[str, Any] = files.manifest
            self.encoder = encoder_in(files, device)
            self.index: faiss.Index = index_in(files)
            self._by_row = without_ids(self.index)
            names = segment_names(self.manifest)
            kept = [stack.enter_context(open(os.dup(files.file(name).fileno()), "rb")) for name in names]
            with items_in(files) as items:
                removed = items.removed
            self._table = stack.enter_context(Items(kept, removed))  # the other files are closed
            ids = self._table.column("ids")
            assert ids is not None
            self._ids = ids  # a memory map, where all items lie in one file
            self._metadata = metadata_in(files)
            if self._metadata is not None:
                name, number = self._metadata.name, self._metadata.file.fileno()
                again = stack.enter_context(open(name, "rb", opener=lambda *_: os.dup(number)))
                self._metadata = self._metadata._replace(file=again)
            self._filters: OrderedDict[str, ChosenRows] = OrderedDict()
            self._one_filter = threading.Lock()  # and so the memory of one evaluation at a time
            self._items = stack.pop_all()

    def close(self) -> None:
        """Close the open files."""
        self._items.close()

    def __len__(self) -> int:
        return self.manifest["counts"]["items"]

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows, (n,) of 0 to len - 1, without reading the others."""
        return self._table.paths(rows)

    def search(self, queries: Any, k: int | None, where: ArrayLike | str | None) -> list[list[Hit]]:
        """See `Bundle.search`."""
        n = len(self)
        k = min(K_RESULTS, n) if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"k={k} is out of range: the bundle has {n} items, choose 1 to {n}")
        chosen = None if where is None else self._chosen(where)
        xq = self.encoder.encode(queries)
        D, I = (self._by_row if chosen is None else chosen).search(xq, k)
        found = I[I >= 0]  # inverted lists, or the chosen items, may be fewer than k
        paths = dict(zip(found.tolist(), self.paths(found), strict=True))
        return [
            [
                Hit(rank, score, row, paths[row], int(self._ids[row]))
                for rank, (score, row) in enumerate(zip(of_query, rows_of_query, strict=True), 1)
                if row >= 0
            ]
            for of_query, rows_of_query in zip(D.tolist(), I.tolist(), strict=True)
        ]

    def _chosen(self, where: ArrayLike | str) -> ChosenRows:
        if not isinstance(where, str):
            return ChosenRows(self._by_row, self._rows_of(where))
        with self._one_filter:
            chosen = self._filters.get(where)
            if chosen is None:
                chosen = ChosenRows(self._by_row, rows_where(where, self._table, self._metadata))
                self._filters[where] = chosen
                if len(self._filters) > FILTERS:
                    self._filters.popitem(last=False)
            self._filters.move_to_end(where)
        return chosen

    def _rows_of(self, ids: ArrayLike) -> np.ndarray:
        """The rows (m,) int64 of the items with these ids; ids that no item has are passed over."""
        wanted = np.asarray(ids)
        if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
            raise ValueError(f"where is of shape {wanted.shape}, {wanted.dtype}: give the ids to search, (m,) int64")
        return np.flatnonzero(np.isin(self._ids, wanted))
