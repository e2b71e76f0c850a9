"""Part: some rows of a shard, wherever it is, as one of several that are searched together."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np

from mecoq_faiss.index.filtered import ChosenRows
from mecoq_faiss.index.inspect import pq_core, read_centroids, read_codebooks, without_refiner


class Form(NamedTuple):
    """What is alike in all parts, of what a merge asks.

    Attributes:
        order: of one index's visits: `rows` as they come, `lists` by their number, or `nearest` lists first.
        k_factor: of a refiner, or None.
    """

    order: str
    k_factor: float | None


class PartLost(ConnectionError):
    """What holds a part does not answer."""


class Part(Protocol):
    """Some rows of a shard, wherever it is; rows are positions in it. A refiner is left aside but by `exact`."""

    total: int  # the shard's rows
    form: Form

    def __len__(self) -> int:
        """How many rows may be returned."""

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(D, I) of queries (nq, d) float32, k at most the number of rows; PartLost where nobody answers."""

    def lists(self, rows: np.ndarray) -> np.ndarray:
        """The inverted list of each of some rows (m,)."""

    def visited(self, xq: np.ndarray) -> np.ndarray:
        """The lists (nprobe,) that a query (1, d) visits, in turn."""

    def exact(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The refiner's scores (m,) float32 of a query (1, d) and some rows (m,)."""


class IndexPart:
    """A `Part` in this process.

    Args:
        index: one that returns positions (see `without_ids`).
        rows: the positions (m,) int64 that may be returned; None for all.
    """

    def __init__(self, index: faiss.Index, rows: np.ndarray | None = None) -> None:
        self.index, self.rows = index, rows
        self._whole: Any = faiss.downcast_index(index)
        self._core = pq_core(index)
        base = without_refiner(index)
        self._searched: Any = base if rows is None else ChosenRows(base, rows)
        self.total = index.ntotal
        self.form = form_of(index)

    def __len__(self) -> int:
        return self.total if self.rows is None else len(self._searched)

    def alone(self) -> Any:
        """What to search where it is the only part: the refiner counts."""
        return self.index if self.rows is None else ChosenRows(self.index, self.rows)

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Part`."""
        return self._searched.search(xq, k)

    def lists(self, rows: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return self._lists[rows].astype(np.int64)

    def visited(self, xq: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return self._core.quantizer.search(xq, self._core.nprobe)[1][0]

    def exact(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See `Part`."""
        computer = self._whole.refine_index.get_distance_computer()
        computer.set_query(faiss.swig_ptr(x))
        return np.array([computer(row) for row in rows.tolist()], np.float32)

    @cached_property
    def _lists(self) -> np.ndarray:
        core = self._core
        lists = np.empty(core.ntotal, np.min_scalar_type(core.nlist))
        for i in range(core.nlist):
            size = core.invlists.list_size(i)
            if size:
                lists[faiss.rev_swig_ptr(core.invlists.get_ids(i), size)] = i
        return lists


def form_of(index: faiss.Index) -> Form:
    """The `Form` of an index."""
    whole, core = faiss.downcast_index(index), pq_core(index)
    order = "rows"
    if isinstance(core, faiss.IndexIVF) and not core.by_residual:
        order = "lists" if isinstance(core, faiss.IndexIVFPQFastScan) else "nearest"
    return Form(order, whole.k_factor if isinstance(whole, faiss.IndexRefine) else None)


def fingerprint(index: faiss.Index) -> str:
    """The SHA-256, in hex, of what shards must share: codebooks and centroids."""
    centroids = read_centroids(index)
    digest = hashlib.sha256(np.ascontiguousarray(read_codebooks(index)).tobytes())
    digest.update(b"" if centroids is None else np.ascontiguousarray(centroids).tobytes())
    return digest.hexdigest()
