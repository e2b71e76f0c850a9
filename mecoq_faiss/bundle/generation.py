"""One export of a bundle, in one folder or in shards, opened and checked: what a search needs of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import TRIES, Pinned, in_shards, read_manifest
from mecoq_faiss.bundle.shard import OpenShard, Shard, Where
from mecoq_faiss.bundle.sharded import each_shard
from mecoq_faiss.bundle.stored_config import read_model_config
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.index.codes import decode_codes, directions, sum_codes
from mecoq_faiss.index.merged import MergedShards, check_shards

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


def export_name(manifest: dict[str, Any]) -> str:
    """Another for each export: the first of its manifest's SHA-256, in hex."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]


class Generation:
    """The opened files of one export. Searches may run in several threads, until `close`.

    Raises FileNotFoundError or ValueError where the folder is no bundle, or damaged.

    Attributes:
        manifest, encoder: the bundle's.
        codebooks: (M, K, d) float32, those of its index.
        users: searches under way; counted by whom it belongs to.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "auto", runtime: str = "torch") -> None:
        self.users, self._path = 0, Path(path)
        for attempt in range(TRIES):
            manifest = read_manifest(self._path)
            try:
                self._open(manifest, device, runtime)
                break
            except (ValueError, FileNotFoundError):
                if attempt + 1 == TRIES or read_manifest(self._path) == manifest:
                    raise  # else another took its place just now

    def _open(self, manifest: dict[str, Any], device: str | torch.device, runtime: str) -> None:
        """All of one export, although another may take its place."""
        self._shards: list[Shard] = []
        self._filters: OrderedDict[str, Any] = OrderedDict()
        self._one_filter = threading.Lock()  # and so the memory of one evaluation at a time
        with ExitStack() as stack:
            for files in each_shard(self._path, manifest):
                if not self._shards:
                    self.manifest = manifest if "shards" in manifest else files.manifest
                    self.encoder = encoder_in(files, device, runtime=runtime)
                    self._metric = read_model_config(files).metric
                self._shards.append(self._opened(files))
                stack.callback(self._shards[-1].close)
            if len(self._shards) > 1:
                check_shards([shard.fingerprint for shard in self._shards])
            self.codebooks = self._shards[0].codebooks
            self._starts = np.cumsum([0, *map(len, self._shards)])
            self._all_items = self._made_ready(None)
            self._files = stack.pop_all()

    def _opened(self, files: Pinned) -> Shard:
        return OpenShard(files)

    def _made_ready(self, where: Where) -> Any:
        """What searches the items that fit `where`."""
        return self._searcher([shard.part(where, self._metadata_columns) for shard in self._shards])

    def _searcher(self, parts: list[Any]) -> Any:
        return parts[0].alone() if len(parts) == 1 else MergedShards(parts)

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    def __len__(self) -> int:
        return self.manifest["counts"]["items"]

    @property
    def index(self) -> faiss.Index:
        """Plain FAISS, as `faiss.read_index` gives it; ValueError where there are shards, and so several."""
        if "shards" in self.manifest:
            raise ValueError(in_shards(self._path, self.manifest))
        [shard] = self._shards
        assert isinstance(shard, OpenShard)
        return shard.index

    @cached_property
    def name(self) -> str:
        """Another for each export."""
        return export_name(self.manifest)

    @property
    def columns(self) -> list[str]:
        """What `where` may name."""
        own = ["id", "path", *(["label"] if all(shard.has_classes for shard in self._shards) else [])]
        return own + list(self._metadata_columns)

    @cached_property
    def _metadata_columns(self) -> dict[str, str]:
        """The columns of the metadata of all shards, and DuckDB's type of each."""
        columns: dict[str, str] = {}
        for shard in self._shards:
            columns |= shard.metadata_columns
        return columns

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows, (n,) of 0 to len - 1, without reading the others."""
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < len(self):
            raise ValueError(f"rows {np.min(rows)} to {np.max(rows)} are not all there: give 0 to {len(self) - 1}")
        return self._each(rows, lambda shard, own: shard.paths(own)).tolist()

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """The ids (m,) int64 of some rows (m,)."""
        return self._each(rows, lambda shard, own: shard.ids(own))

    def labels(self, rows: np.ndarray) -> list[str | None]:
        """The classes of some rows; None where items have none, or several."""
        return self._each(rows, lambda shard, own: shard.labels(own)).tolist()

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """The codes (m, M) uint8 of some rows (m,)."""
        return self._each(rows, lambda shard, own: shard.codes(own))

    def _each(self, rows: np.ndarray, of: Callable[[Shard, np.ndarray], np.ndarray]) -> np.ndarray:
        """What `of` gives for rows (m,) of each shard, in the order of these."""
        rows = np.asarray(rows, np.int64)
        if len(self._shards) == 1 or not len(rows):
            return np.asarray(of(self._shards[0], rows))
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [of(self._shards[i], rows[owner == i] - self._starts[i]) for i in np.unique(owner).tolist()]
        joined = np.concatenate(parts)
        found = np.empty_like(joined)
        found[order] = joined
        return found

    def search(self, queries: Any, k: int | None, where: ArrayLike | str | None) -> list[list[Hit]]:
        """See `Bundle.search`."""
        k, chosen = self._checked(k), self._chosen(where)
        return self._hits(self.encoder.encode(queries), k, chosen)

    @property
    def top_score(self) -> float | None:
        """The highest score, and the negative of the lowest: M, of additive codes 1; None where scores have none."""
        if not self.encoder.is_additive:
            return float(self.manifest["M"])
        return 1.0 if self._metric in ("aqs", "cosine") else None

    def search_vectors(
        self, xq: np.ndarray, k: int | None, where: ArrayLike | str | None, missing: set[int] | None = None
    ) -> list[list[Hit]]:
        """The same of queries (nq, d) float32 that `encoder` gave.

        Where a set `missing` is given, shards elsewhere that do not answer are added to it, by number, and left out.
        """
        k, chosen = self._checked(k), self._chosen(where)
        return self._hits(xq, k, chosen, missing)

    def row_of(self, id: int) -> int:
        """The row of the item with an id; KeyError where there is none."""
        for start, shard in zip(self._starts.tolist(), self._shards, strict=False):
            row = shard.row_of(id)
            if row is not None:
                return start + row
        raise KeyError(id)

    def metadata(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The metadata of the items with these ids, by id; items that have none are left out."""
        found: dict[int, dict[str, Any]] = {}
        empty = dict.fromkeys(self._metadata_columns)
        for shard in self._shards:
            found |= {id: empty | said for id, said in shard.metadata(ids).items()}
        return found

    def queries_like(self, rows: np.ndarray) -> np.ndarray:
        """What some rows (m,) stand for, as queries (m, d) float32: their own vectors are not kept."""
        codes = self.codes(rows)
        if not self.encoder.is_additive:
            return decode_codes(self.codebooks, codes)
        x = sum_codes(self.codebooks, codes)  # (m, D)
        if self._metric == "l2":
            x[:, -1] = 1
        elif self._metric != "ip":
            x = directions(x)
        return np.tile(x, self.manifest["M"])

    def segment_scores(self, xq: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What each codeword of some rows (m,) adds to their score for one query (d,): (m, M)."""
        vectors = decode_codes(self.codebooks, self.codes(rows))
        own = xq.reshape(self.manifest["M"], -1)
        return np.einsum("mij,ij->mi", vectors.reshape(len(rows), *own.shape), own)

    def _checked(self, k: int | None) -> int:
        n = len(self)
        k = min(K_RESULTS, n) if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"k={k} is out of range: the bundle has {n} items, choose 1 to {n}")
        return k

    def _hits(self, xq: np.ndarray, k: int, chosen: Any, missing: set[int] | None = None) -> list[list[Hit]]:
        D, I = chosen.search(xq, k, missing) if isinstance(chosen, MergedShards) else chosen.search(xq, k)
        found = I[I >= 0]  # inverted lists, or the chosen items, may be fewer than k
        paths = dict(zip(found.tolist(), self.paths(found), strict=True))
        ids = dict(zip(found.tolist(), self.ids(found).tolist(), strict=True))
        return [
            [
                Hit(rank, score, row, paths[row], ids[row])
                for rank, (score, row) in enumerate(zip(of_query, rows_of_query, strict=True), 1)
                if row >= 0
            ]
            for of_query, rows_of_query in zip(D.tolist(), I.tolist(), strict=True)
        ]

    def _chosen(self, where: ArrayLike | str | None) -> Any:
        """What searches the items that fit `where`; of conditions the last ones are kept."""
        if where is None:
            return self._all_items
        if not isinstance(where, str):
            ids = np.asarray(where)
            if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
                raise ValueError(f"where is of shape {ids.shape}, {ids.dtype}: give the ids to search, (m,) int64")
            return self._made_ready(ids)
        with self._one_filter:
            chosen = self._filters.get(where)
            if chosen is None:
                chosen = self._filters[where] = self._made_ready(where)
                if len(self._filters) > FILTERS:
                    self._filters.popitem(last=False)
            self._filters.move_to_end(where)
        return chosen
