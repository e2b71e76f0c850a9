"""One export of a bundle, opened and checked: what a search needs of it, whatever takes its place in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.columns import Classes
from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import Items, items_in, segment_names
from mecoq_faiss.bundle.metadata import metadata_in, metadata_of
from mecoq_faiss.bundle.stored_config import read_model_config
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.where import rows_where
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.index.codes import decode_codes, directions, sum_codes
from mecoq_faiss.index.filtered import ChosenRows
from mecoq_faiss.index.inspect import make_reconstructable, read_codebooks, without_ids

if TYPE_CHECKING:
    import torch

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


def relevance(score: float, top: float | None) -> float | None:
    """(s + top) / (2 top), kept in [0, 1], of a `Generation.top_score`; None where scores have none."""
    return None if top is None else min(1.0, max(0.0, (score + top) / (2 * top)))


class Generation:
    """The opened files of one export. Searches may run in several threads, until `close`.

    Raises FileNotFoundError or ValueError where the folder is no bundle, or damaged.

    Attributes:
        manifest, encoder: the bundle's.
        index: plain FAISS, as `faiss.read_index` gives it.
        users: searches under way; counted by whom it belongs to.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "auto", runtime: str = "torch") -> None:
        self.users = 0
        with ExitStack() as stack, pinned(path) as files:  # all of one export, although another may take its place
            self.manifest: dict[str, Any] = files.manifest
            self.encoder = encoder_in(files, device, runtime=runtime)
            self.index: faiss.Index = index_in(files)
            make_reconstructable(self.index)
            self._by_row = without_ids(self.index)
            self._metric, self._codebooks = read_model_config(files).metric, read_codebooks(self.index)
            names = segment_names(self.manifest)
            kept = [stack.enter_context(open(os.dup(files.file(name).fileno()), "rb")) for name in names]
            with items_in(files) as items:
                removed = items.removed
            self._table = stack.enter_context(Items(kept, removed))  # the other files are closed
            ids = self._table.column("ids")
            assert ids is not None
            self._ids = ids  # a memory map, where all items lie in one file
            codes = self._table.lazy("codes")
            assert codes is not None
            self._codes, self._classes = codes, Classes(self._table)
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

    @cached_property
    def name(self) -> str:
        """Another for each export: the first of its manifest's SHA-256, in hex."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def columns(self) -> list[str]:
        """What `where` may name."""
        own = ["id", "path", *(["label"] if self._classes else [])]
        return own + ([] if self._metadata is None else list(self._metadata.columns))

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows, (n,) of 0 to len - 1, without reading the others."""
        return self._table.paths(rows)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """The ids (m,) int64 of some rows (m,)."""
        return np.asarray(self._ids[rows])

    def search(self, queries: Any, k: int | None, where: ArrayLike | str | None) -> list[list[Hit]]:
        """See `Bundle.search`."""
        k, chosen = self._checked(k), None if where is None else self._chosen(where)
        return self._hits(self.encoder.encode(queries), k, chosen)

    @property
    def top_score(self) -> float | None:
        """The highest score, and the negative of the lowest: M, of additive codes 1; None where scores have none."""
        if not self.encoder.is_additive:
            return float(self.manifest["M"])
        return 1.0 if self._metric in ("aqs", "cosine") else None

    def search_vectors(self, xq: np.ndarray, k: int | None, where: ArrayLike | str | None) -> list[list[Hit]]:
        """The same of queries (nq, d) float32 that `encoder` gave."""
        k, chosen = self._checked(k), None if where is None else self._chosen(where)
        return self._hits(xq, k, chosen)

    def row_of(self, id: int) -> int:
        """The row of the item with an id; KeyError where there is none."""
        rows = np.flatnonzero(self._ids == id)
        if not len(rows):
            raise KeyError(id)
        return int(rows[0])

    def labels(self, rows: np.ndarray) -> list[str | None]:
        """The classes of some rows; None where items have none, or several."""
        return self._classes.of(rows).tolist() if self._classes else [None] * len(rows)

    def metadata(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The metadata of the items with these ids, by id; items that have none are left out."""
        return {} if self._metadata is None else metadata_of(self._metadata, ids)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """The codes (m, M) uint8 of some rows (m,)."""
        return np.asarray(self._codes[np.asarray(rows, np.int64)])

    def queries_like(self, rows: np.ndarray) -> np.ndarray:
        """What some rows (m,) stand for, as queries (m, d) float32: their own vectors are not kept."""
        codes = self.codes(rows)
        if not self.encoder.is_additive:
            return decode_codes(self._codebooks, codes)
        x = sum_codes(self._codebooks, codes)  # (m, D)
        if self._metric == "l2":
            x[:, -1] = 1
        elif self._metric != "ip":
            x = directions(x)
        return np.tile(x, self.manifest["M"])

    def segment_scores(self, xq: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What each codeword of some rows (m,) adds to their score for one query (d,): (m, M)."""
        vectors = decode_codes(self._codebooks, self.codes(rows))
        own = xq.reshape(self.manifest["M"], -1)
        return np.einsum("mij,ij->mi", vectors.reshape(len(rows), *own.shape), own)

    def _checked(self, k: int | None) -> int:
        n = len(self)
        k = min(K_RESULTS, n) if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"k={k} is out of range: the bundle has {n} items, choose 1 to {n}")
        return k

    def _hits(self, xq: np.ndarray, k: int, chosen: ChosenRows | None) -> list[list[Hit]]:
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
