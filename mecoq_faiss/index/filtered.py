"""A search among some of an index's vectors only, as exact as one of all.

Kinds with inverted lists take FAISS's own selectors. FAISS 1.15's IndexPQ and IndexPQFastScan take none: for these an
index of the chosen codes alone is built, which gives every code the same score.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.exhaustive import pq, pq_fastscan, refined
from mecoq_faiss.index.inspect import read_codebooks, read_codes_at, without_refiner


class ChosenRows:
    """Some positions of an index, made ready to be searched many times, also from several threads.

    Args:
        index: one that returns positions (see `without_ids`), on the CPU.
        rows: the positions (m,) int64 that may be returned.
    """

    def __init__(self, index: faiss.Index, rows: np.ndarray) -> None:
        self._owner = index
        self._index: Any = faiss.downcast_index(index)
        self._lists: Any = faiss.downcast_index(without_refiner(index))
        self._rows = np.unique(rows)
        self._alone: faiss.Index | None = None
        if not isinstance(self._lists, faiss.IndexIVF):
            self._alone = _index_of(self._index, self._rows) if len(self._rows) else None
            return
        mask = np.zeros(index.ntotal, bool)
        mask[self._rows] = True
        self._bits = np.packbits(mask, bitorder="little")  # FAISS keeps a bare pointer
        self._selector = faiss.IDSelectorBitmap(index.ntotal, faiss.swig_ptr(self._bits))

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(D, I) of queries (nq, d) float32, as `index.search` gives them; the last I are -1 where fewer are found."""
        few = min(k, len(self._rows))
        D = np.full((len(xq), k), np.finfo(np.float32).min, np.float32)
        I = np.full((len(xq), k), -1, np.int64)
        if self._alone is not None:
            D[:, :few], found = self._alone.search(xq, few)
            I[:, :few] = np.where(found >= 0, self._rows[found], -1)
        elif few:
            D[:, :few], I[:, :few] = self._index.search(xq, few, params=self._parameters())
        return D, I

    def _parameters(self) -> Any:
        # what the parameters do not say is not the index's own setting but a default
        params: Any = faiss.SearchParametersIVF(  # type: ignore[call-arg]
            sel=self._selector, nprobe=self._lists.nprobe, max_codes=self._lists.max_codes
        )
        if isinstance(self._index, faiss.IndexRefine):
            params = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
                k_factor=self._index.k_factor, base_index_params=params
            )
        return params


def search_rows(index: faiss.Index, xq: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some positions, (D, I); of kinds with inverted lists, in those that the index visits by itself."""
    return ChosenRows(index, rows).search(xq, k)


def _index_of(index: Any, rows: np.ndarray) -> faiss.Index:
    """An exhaustive index of some positions' codes alone, with the same refiner."""
    codebooks, codes = read_codebooks(index), read_codes_at(index, rows)
    base = faiss.downcast_index(without_refiner(index))
    chosen = pq_fastscan(codebooks, codes) if isinstance(base, faiss.IndexPQFastScan) else pq(codebooks, codes)
    return refined(chosen, codebooks, codes, index.k_factor) if isinstance(index, faiss.IndexRefine) else chosen
