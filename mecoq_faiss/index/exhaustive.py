"""Exhaustive indexes from codes alone: IndexPQ, its 4-bit FastScan form, and the exact re-scoring of its best."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.codes import code_blocks, pack_codes, pair_codebooks


def pq(codebooks: np.ndarray, codes: np.ndarray) -> faiss.IndexPQ:
    """IndexPQ with the given codebooks (M, K, d) and codes (n, M)."""
    M, K, d = codebooks.shape
    nbits = K.bit_length() - 1
    index = faiss.IndexPQ(M * d, M, nbits, faiss.METRIC_INNER_PRODUCT)
    set_codebooks(index, codebooks)
    index.codes.resize(len(codes) * index.code_size)  # the memory once; adding keeps it
    for _, block in code_blocks(codes):
        index.add_sa_codes(pack_codes(block, nbits))
    return index


def set_codebooks(index: faiss.IndexPQ | faiss.IndexIVFPQ, codebooks: np.ndarray) -> None:
    """Learned codebooks in the place of trained ones."""
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks).ravel(), index.pq.centroids)
    index.is_trained = True


def fastscan(source: Any) -> faiss.IndexPQFastScan | faiss.IndexIVFPQFastScan:
    """The same codes and lists for 4-bit FastScan; `source` can go, its coarse quantizer is taken over.

    FAISS leaves pointers into `source` that only its own tests read; they are cleared, lest they dangle.
    """
    index: Any
    if isinstance(source, faiss.IndexIVF):
        index = faiss.IndexIVFPQFastScan(source)
        index.orig_invlists = None
        index.nprobe = source.nprobe
        source.own_fields, index.own_fields = False, True
    else:
        index = faiss.IndexPQFastScan(source)
        index.orig_codes = None
    return index


def use_fastscan(index: Any) -> None:
    """Replace the 4-bit IndexPQ inside an IndexPreTransform by the same codes in FastScan's layout."""
    fast = fastscan(faiss.downcast_index(index.index))
    index.own_fields = False
    index.index = fast
    index.referenced_objects = [*getattr(index, "referenced_objects", []), fast]


def pq_fastscan(codebooks: np.ndarray, codes: np.ndarray) -> faiss.IndexPQFastScan:
    """4-bit IndexPQFastScan with the given codebooks (M, 16, d) and codes (n, M).

    FastScan interleaves codes in blocks; they are made piece by piece, so that there is never a second copy of all.
    """
    index: Any = fastscan(pq(codebooks, codes[:0]))
    n = len(codes)
    index.ntotal, index.ntotal2 = n, -(-n // index.bbs) * index.bbs
    index.codes.resize(index.ntotal2 * index.M2 // 2)
    whole = faiss.rev_swig_ptr(index.codes.get(), index.codes.size())
    filled = 0
    for _, block in code_blocks(codes):  # each fills its blocks, but for the last
        part: Any = fastscan(pq(codebooks, block))
        size = part.ntotal2 * part.M2 // 2
        whole[filled : filled + size] = faiss.rev_swig_ptr(part.codes.get(), size)
        filled += size
    return index


def refined(base: faiss.Index, codebooks: np.ndarray, codes: np.ndarray, k_factor: float) -> faiss.IndexRefine:
    """`base` (4-bit) with its best k_factor * k scored exactly by a paired 8-bit copy of the codes (4-bit at odd M)."""
    paired = len(codebooks) % 2 == 0
    exact = pq(*pair_codebooks(codebooks, codes[:0])) if paired else pq(codebooks, codes)
    if paired:
        exact.codes.resize(len(codes) * exact.code_size)
        for _, block in code_blocks(codes):
            exact.add_sa_codes(pair_codebooks(codebooks, block)[1])
    index = faiss.IndexRefine(base, exact)
    index.k_factor = k_factor
    disown(base, exact)
    index.own_fields = index.own_refine_index = True
    return index


def disown(*parts: Any) -> None:
    """Leave the freeing of parts to the index around them (whose `own_fields` must be set)."""
    for part in parts:
        part.this.disown()
