"""Learned codebooks and stored codes into FAISS indexes, without the images and without any training of codebooks.

Scores are inner products: with unit-norm codewords and queries whose segments have norm 1, `index.search` is AQS (Eq. 16,
17) and `index.add` gives the codes of Eq. 15. FAISS's internals are touched here and in `indexread` only.
"""

from __future__ import annotations

import math

import numpy as np

from mecoq_faiss.codes import BLOCK, check_codebooks, check_codes, decode_codes, pair_codebooks, search_exact
from mecoq_faiss.faisscheck import check_faiss, simd_level
from mecoq_faiss.indexfile import load_index, save_index
from mecoq_faiss.indexread import describe_index, read_codebooks, read_codes

check_faiss()

import faiss  # noqa: E402

__all__ = [
    "KINDS",
    "build_index",
    "check_kind",
    "describe_index",
    "load_index",
    "pair_codebooks",
    "read_codebooks",
    "read_codes",
    "save_index",
    "search_exact",
    "simd_level",
]

KINDS = ("pq", "pqfs", "ivfpq", "ivfpqfs", "gpu")
GPU_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)  # faiss/gpu/impl/IVFPQ.cu
GPU_NPROBE = 2048


def check_kind(kind: str, M: int, nbits: int, n: int | None = None) -> None:
    """Refuse what FAISS cannot do, before any work.

    Args:
        kind: one of `KINDS`.
        M: number of subquantizers.
        nbits: bits a subquantizer, log2 K.
        n: number of codes, where it is known already.

    Raises:
        ValueError: one line that names the nearest combination that works.
    """
    if kind not in KINDS:
        raise ValueError(f"index kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    if M < 1 or not 1 <= nbits <= 8:
        raise ValueError(f"M={M}, nbits={nbits} is out of range: choose M of at least 1 and nbits of 1 to 8")
    if n is not None and n < 1:
        raise ValueError("codes are empty: an index needs at least one image")
    if kind in ("pqfs", "ivfpqfs") and nbits != 4:
        other = kind.removesuffix("fs")
        raise ValueError(
            f"kind {kind!r} needs 4-bit codes, these have {nbits}: train with nbits=4, or choose {other!r}"
        )
    if kind == "gpu" and nbits != 8:
        raise ValueError(f"kind 'gpu' needs 8-bit codes, these have {nbits}: train with nbits=8, or choose 'pq'")
    if kind == "gpu" and M not in GPU_M:
        near = min(GPU_M, key=lambda m: (abs(m - M), m))
        raise ValueError(f"kind 'gpu' does not take M={M}: train with M={near} ({8 * near} bits), or choose 'pq'")


def build_index(codebooks: np.ndarray, codes: np.ndarray, kind: str = "pq") -> faiss.Index:
    """A searchable FAISS index of stored codes."""
    M, K, d = check_codebooks(codebooks)
    nbits = K.bit_length() - 1
    if 1 << nbits != K:
        raise ValueError(f"K={K} is not a power of two: train with K={1 << max(1, round(math.log2(K)))}")
    check_kind(kind, M, nbits)
    check_codes(codes, M, K)
    if kind != "pq":
        raise NotImplementedError(kind)
    return _pq(codebooks, _packed(codes, nbits))


def _pq(codebooks: np.ndarray, packed: np.ndarray) -> faiss.IndexPQ:
    """IndexPQ with the given codebooks (M, K, d) and packed codes (n, code_size)."""
    M, K, d = codebooks.shape
    index = faiss.IndexPQ(M * d, M, K.bit_length() - 1, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks).ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(packed)
    return index


def _packed(codes: np.ndarray, nbits: int) -> np.ndarray:
    """Codes (n, M), one byte each -> FAISS's rows of ceil(M * nbits / 8) bytes."""
    return np.ascontiguousarray(codes) if nbits == 8 else faiss.pack_bitstrings(codes, nbits)
