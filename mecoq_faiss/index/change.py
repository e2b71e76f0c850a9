"""A filled index changed: one of inverted lists in place, as its centroids stay; another is built anew.

Rows are positions in the order of adding; they stay 0 to n - 1 without gaps, as `build_index` makes them. An index that
was changed is to be written: FAISS's map from own ids to rows is made when it is read again.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.build import build_index, with_ids
from mecoq_faiss.index.codes import code_blocks, decode_codes, pack_codes, pair_codebooks
from mecoq_faiss.index.exhaustive import fastscan, pq
from mecoq_faiss.index.inspect import block_codes, read_codebooks, read_ids, without_ids


def rebuilt(
    said: dict[str, Any], codebooks: np.ndarray, codes: np.ndarray, ids: np.ndarray | None, additive: bool = False
) -> faiss.Index:
    """An index without lists as `describe_index` says of another, of codes (n, M) uint8 and own ids (n,) int64 or None.

    Both may be what gives arrays for slices; beside the index no more than a block of them is in memory.
    """
    k_factor = said["refine"] or 4.0
    refine = said["refine"] is not None
    index = build_index(codebooks, codes, said["kind"], refine=refine, k_factor=k_factor, additive=additive)
    return index if ids is None else with_ids(index, ids, reverse=False)


def remove_rows(index: faiss.Index, rows: np.ndarray) -> None:
    """Remove rows (m,) int64, distinct and in rising order, of an index of lists; the later ones move up."""
    if not len(rows):
        return
    ids = read_ids(index)
    ids = None if ids is None else np.delete(ids, rows)
    for core in _cores(index):
        core.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(rows, dtype=np.int64)))
        if isinstance(core, faiss.IndexIVF):
            _close_gaps(core, rows)
    _tell_wrappers(index, ids)


def append_codes(index: faiss.Index, codes: np.ndarray, ids: np.ndarray | None = None) -> None:
    """Add codes (m, M) uint8 at the end of an index of lists, in one of own ids under `ids` (m,) int64.

    Raises:
        ValueError: `ids` given to an index of positions, or missing for one of own ids.
    """
    outer: Any = faiss.downcast_index(index)
    own = isinstance(outer, faiss.IndexIDMap)
    if own != (ids is not None):
        raise ValueError("this index returns its own ids: give one a code" if own else "this index returns positions")
    codebooks = read_codebooks(index)
    for core in _cores(index):
        paired = codes.shape[1] != core.pq.M  # a refiner's 8-bit copy of 4-bit codes
        for _, block in code_blocks(codes):
            books, part = pair_codebooks(codebooks, block) if paired else (codebooks, block)
            _append(core, books, part)
    all_ids = None if ids is None else np.concatenate([faiss.vector_to_array(outer.id_map), ids])
    _tell_wrappers(index, all_ids)


def _cores(index: faiss.Index) -> list[Any]:
    """The indexes that hold codes: one, or with a refiner two."""
    inner: Any = faiss.downcast_index(without_ids(index))
    if isinstance(inner, faiss.IndexRefine):
        return [faiss.downcast_index(inner.base_index), faiss.downcast_index(inner.refine_index)]
    return [inner]


def _append(core: Any, codebooks: np.ndarray, codes: np.ndarray) -> None:
    nbits = core.pq.nbits
    if isinstance(core, faiss.IndexIVFPQFastScan):
        _append_to_lists(core, codebooks, codes)
    elif hasattr(core, "invlists"):
        rows = core.ntotal + np.arange(len(codes))
        if core.by_residual:  # all-zero centroids: any list will do
            lists = rows % core.nlist
        else:
            lists = core.quantizer.search(decode_codes(codebooks, codes), 1)[1][:, 0]
        width = core.coarse_code_size()
        numbers = lists.astype("<i8")[:, None].view(np.uint8)[:, :width]
        core.add_sa_codes(np.hstack([numbers, pack_codes(codes, nbits)]), rows)
    else:
        core.add_sa_codes(pack_codes(codes, nbits))


def _append_to_lists(core: Any, codebooks: np.ndarray, codes: np.ndarray) -> None:
    """The last block of each list that gets some is written anew, where it is not full, with the codes behind it.

    FAISS's own adding would mix them with what removing leaves in a block.
    """
    lists = core.quantizer.search(decode_codes(codebooks, codes), 1)[1][:, 0]
    invlists: Any = faiss.downcast_InvertedLists(core.invlists)
    for number in np.unique(lists).tolist():
        new = np.flatnonzero(lists == number)
        size, code_bytes = invlists.list_size(number), core.M2 // 2
        kept = size // core.bbs * core.bbs
        tail = block_codes(core, invlists.get_codes(number), size, kept)
        part: Any = fastscan(pq(codebooks, np.concatenate([tail, codes[new]])))
        invlists.resize(number, size + len(new))
        blocks = faiss.rev_swig_ptr(invlists.get_codes(number), (kept + part.ntotal2) * code_bytes)
        blocks[kept * code_bytes :] = faiss.rev_swig_ptr(part.codes.get(), part.ntotal2 * code_bytes)
        faiss.rev_swig_ptr(invlists.get_ids(number), size + len(new))[size:] = core.ntotal + new
    core.ntotal += len(codes)


def _close_gaps(core: Any, removed: np.ndarray) -> None:
    """The rows in the lists after `removed` (m,) rising are gone: each is lowered by the number that were below it."""
    for number in range(core.nlist):
        size = core.invlists.list_size(number)
        if size:
            rows = faiss.rev_swig_ptr(core.invlists.get_ids(number), size)
            rows -= np.searchsorted(removed, rows)


def _tell_wrappers(index: faiss.Index, ids: np.ndarray | None) -> None:
    """Totals, and own ids, of what wraps the changed indexes."""
    inner: Any = faiss.downcast_index(without_ids(index))
    inner.ntotal = _cores(index)[0].ntotal
    outer: Any = faiss.downcast_index(index)
    if ids is not None:
        faiss.copy_array_to_vector(np.ascontiguousarray(ids, dtype=np.int64), outer.id_map)
        outer.ntotal = inner.ntotal
    index.ntotal = inner.ntotal
