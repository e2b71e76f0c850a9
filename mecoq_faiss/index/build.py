"""Learned codebooks and stored codes into FAISS indexes, without the images and without any training of codebooks.

Scores are inner products: with unit-norm codewords and queries whose segments have norm 1, `index.search` is AQS
(Eq. 16, 17) and `index.add` gives the codes of Eq. 15. FAISS's internals are touched in
this room and in `baselines` only.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.codes import check_codebooks, check_codes, code_blocks
from mecoq_faiss.index.exhaustive import disown, pq, pq_fastscan, refined
from mecoq_faiss.index.inverted_lists import (
    coarse_centroids,
    default_nlist,
    default_nprobe,
    ivfpq,
    ivfpq_fastscan,
    zero_ivfpq,
)

KINDS = ("pq", "pqfs", "ivfpq", "ivfpqfs", "ivfpq-all")
FORMER = {"gpu": "ivfpq-all"}  # names that kinds had: bundles of earlier versions say them
SHARING = ("ivfpq", "ivfpqfs")  # kinds whose centroids the shards of a collection share
GPU_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)  # faiss/gpu/impl/IVFPQ.cu, isSupportedPQCodeLength
GPU_NLIST = 2048  # all lists are probed, and a GPU probes no more
FASTSCAN_CODES = (1 << 31) - 1  # of an index: faiss/IndexFastScan.cpp refuses to search more
GPU_LIST = 1 << 16  # codes a list: a GPU scans the lists of one query in parallel


def check_kind(kind: str, M: int, nbits: int, n: int | None = None, *, additive: bool = False) -> None:
    """Refuse what FAISS cannot do, before any work.

    Args:
        kind: one of `KINDS`.
        M: number of subquantizers.
        nbits: bits a subquantizer, log2 K.
        n: number of codes, where it is known already.
        additive: whether codes stand for sums.

    Raises:
        ValueError: one line that names the nearest combination that works.
    """
    kind = FORMER.get(kind, kind)
    if kind not in KINDS:
        raise ValueError(f"index kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    if M < 1 or not 1 <= nbits <= 8:
        raise ValueError(f"M={M}, nbits={nbits} is out of range: choose M of at least 1 and nbits of 1 to 8")
    if n is not None and n < 1:
        raise ValueError("codes are empty: an index needs at least one image")
    if n is not None and kind == "pqfs" and n > FASTSCAN_CODES:
        raise ValueError(f"kind 'pqfs' holds up to {FASTSCAN_CODES:,} codes, not {n:,}: make shards, or choose 'pq'")
    if kind in ("pqfs", "ivfpqfs") and nbits != 4:
        other = kind.removesuffix("fs")
        raise ValueError(f"kind {kind!r} needs 4-bit codes, not {nbits}-bit: train with nbits=4, or choose {other!r}")
    if kind == "ivfpq-all" and additive:
        raise ValueError(f"kind {kind!r} takes no additive codes: choose 'pq' or 'ivfpq', or train with codes=product")
    if kind == "ivfpq-all" and nbits != 8:
        raise ValueError(f"kind {kind!r} needs 8-bit codes, not {nbits}-bit: train with nbits=8, or choose 'pq'")
    if kind == "ivfpq-all" and M not in GPU_M:
        near = min(GPU_M, key=lambda m: (abs(m - M), m))
        raise ValueError(f"kind {kind!r} does not take M={M}: train with M={near} ({8 * near} bits), or choose 'pq'")


def build_index(
    codebooks: np.ndarray,
    codes: np.ndarray,
    kind: str = "pq",
    *,
    ids: np.ndarray | None = None,
    nlist: int | None = None,
    nprobe: int | None = None,
    refine: bool = False,
    k_factor: float = 4.0,
    seed: int = 0,
    additive: bool = False,
    centroids: np.ndarray | None = None,
) -> faiss.Index:
    """A searchable FAISS index of stored codes, METRIC_INNER_PRODUCT.

    The kinds, and what their scores are:

    - `pq`: IndexPQ; AQS.
    - `pqfs`: IndexPQFastScan, 4-bit only; AQS within 8-bit lookup tables, AQS where refined.
    - `ivfpq`: IndexIVFPQ of whole vectors; AQS, of the images in the probed lists.
    - `ivfpqfs`: IndexIVFPQFastScan of whole vectors, 4-bit only; as both.
    - `ivfpq-all`: IndexIVFPQ with all-zero centroids, every list probed; AQS of all images, with FAISS's selectors of
      ids, which IndexPQ does not take, and for `faiss.index_cpu_to_gpu`. Its former name is `gpu`.

    Args:
        codebooks: (M, K, d) float32, every codeword of norm 1, K a power of two up to 256.
        codes: (n, M) uint8, one byte a code even for K = 16.
        kind: one of `KINDS`.
        ids: (n,) int64, the ids that a search returns (through IndexIDMap2); else 0 to n - 1.
        nlist: number of inverted lists of an IVF kind, 1 to n; by default about 4 * sqrt(n). For `ivfpq-all` the
            number of lists that a GPU's processors share, 1 to 2048.
        nprobe: lists a search visits, stored in the index; by default about 2 * sqrt(nlist).
        refine: re-score the best k_factor * k of a FastScan kind exactly, for a second copy of the codes.
        k_factor: at least 1; stored in the index.
        seed: of the coarse k-means and its sample.
        additive: codes stand for the sum of their codewords, which may have any norm; a query (d,) is searched as
            M times itself in a row, and AQS is its inner product with that sum.
        centroids: (nlist, M * d) float32, those of the lists of `ivfpq` and `ivfpqfs`, as `coarse_centroids` gives them
            of the whole collection of which `codes` are a shard; by default of `codes`.

    Returns:
        An index that owns all its parts and survives `faiss.write_index`. A GPU needs
        `GpuClonerOptions.useFloat16 = True` from M = 56.

    Raises:
        ValueError: arrays or options that FAISS cannot take, or that would break Eq. 15 or AQS.
    """
    M, K, _ = check_codebooks(codebooks, additive)
    kind, nbits = FORMER.get(kind, kind), K.bit_length() - 1
    if K < 2 or 1 << nbits != K:
        raise ValueError(f"K={K} is not 2**nbits: train with K={1 << max(1, round(math.log2(K)))}")
    n = check_codes(codes, M, K)
    check_kind(kind, M, nbits, n, additive=additive)
    lists: dict[str, Any] = {"nlist": nlist, "nprobe": nprobe}
    if centroids is not None:
        lists["nlist"] = check_centroids(centroids, kind, codebooks, nlist)
    most = n if centroids is None else max(n, len(centroids))
    nlist, nprobe = check_options(kind, most, **lists, refine=refine, k_factor=k_factor)
    if ids is not None:
        check_ids(ids, n)

    index: faiss.Index
    if kind == "ivfpq-all":
        index = zero_ivfpq(codebooks, codes, nlist)
    elif kind in SHARING:
        centroids = coarse_centroids(codebooks, codes, nlist, seed, additive) if centroids is None else centroids
        index = (ivfpq if kind == "ivfpq" else ivfpq_fastscan)(codebooks, codes, centroids, nprobe)
    else:
        index = pq_fastscan(codebooks, codes) if kind == "pqfs" else pq(codebooks, codes)
    if refine:
        index = refined(index, codebooks, codes, k_factor)
    return index if ids is None else with_ids(index, ids)


def check_options(
    kind: str,
    n: int,
    *,
    nlist: int | None = None,
    nprobe: int | None = None,
    refine: bool = False,
    k_factor: float = 4.0,
) -> tuple[int, int]:
    """Nlist and nprobe of an index of n codes with their defaults filled in; 0 where the kind has none.

    Raises:
        ValueError: options, as in `build_index`, that the kind does not have or that are out of range.
    """
    kind = FORMER.get(kind, kind)
    if refine and kind not in ("pqfs", "ivfpqfs"):
        raise ValueError(f"kind {kind!r} needs no refine=True: only FastScan kinds round their scores")
    if not k_factor >= 1:
        raise ValueError(f"k_factor={k_factor} is out of range: choose 1 or more")
    if kind in ("pq", "pqfs"):
        if nlist is not None or nprobe is not None:
            raise ValueError(f"kind {kind!r} has no lists: leave nlist and nprobe out, or choose 'ivf{kind}'")
        return 0, 0
    most = min(n, GPU_NLIST) if kind == "ivfpq-all" else n
    if nlist is None:
        nlist = min(most, -(-n // GPU_LIST)) if kind == "ivfpq-all" else default_nlist(n)
    if not 1 <= nlist <= most:
        raise ValueError(f"nlist={nlist} is out of range: choose 1 to {most} for {n} codes")
    if kind == "ivfpq-all":
        if nprobe not in (None, nlist):
            raise ValueError(f"kind {kind!r} visits every list: leave nprobe out, got {nprobe} of {nlist}")
        return nlist, nlist
    nprobe = default_nprobe(nlist) if nprobe is None else nprobe
    if not 1 <= nprobe <= nlist:
        raise ValueError(f"nprobe={nprobe} is out of range: choose 1 to nlist={nlist}")
    return nlist, nprobe


def check_centroids(centroids: np.ndarray, kind: str, codebooks: np.ndarray, nlist: int | None) -> int:
    """Their number; ValueError where an index of a kind cannot take them."""
    if kind not in SHARING:
        raise ValueError(f"kind {kind!r} takes no centroids: leave them out, or choose one of {', '.join(SHARING)}")
    M, _, d = codebooks.shape
    fit = isinstance(centroids, np.ndarray) and centroids.ndim == 2 and centroids.shape[1] == M * d and len(centroids)
    if not fit or centroids.dtype != np.float32 or nlist not in (None, len(centroids)):
        raise ValueError(
            f"centroids must be float32 of shape (nlist, {M * d}), got {getattr(centroids, 'shape', None)}"
        )
    return len(centroids)


def check_ids(ids: np.ndarray, n: int) -> None:
    """ValueError where `ids` are not n different int64 numbers that FAISS can return."""
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64:
        raise ValueError(f"ids must be an int64 array, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.shape != (n,):
        raise ValueError(f"ids must have shape ({n},), one for each code, got {ids.shape}")
    ordered = np.sort(ids)
    if (ordered[1:] == ordered[:-1]).any():
        twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise ValueError(f"ids must differ, but {twice} occurs more than once")
    if (ids == -1).any():
        raise ValueError("id -1 is FAISS's mark for 'nothing found': choose another")


def with_ids(index: faiss.Index, ids: np.ndarray, *, reverse: bool = True) -> faiss.IndexIDMap2:
    """A filled index under its own ids; FAISS only wraps empty ones, hence the moment with ntotal = 0.

    Without `reverse` it cannot tell the vector of an id before it was written and read: that map takes several times
    the memory of the ids.
    """
    index.ntotal = 0
    mapped: Any = faiss.IndexIDMap2(index)
    mapped.ntotal = index.ntotal = len(ids)
    mapped.id_map.resize(len(ids))
    own = faiss.rev_swig_ptr(mapped.id_map.data(), len(ids))
    for start, block in code_blocks(ids):
        own[start : start + len(block)] = block
    if reverse:
        mapped.construct_rev_map()
    disown(index)
    mapped.own_fields = True
    return mapped
