"""Inverted lists from codes alone: coarse centroids and list numbers come from the decoded codes.

Codes stand for whole vectors, so lists only choose which of them a search scores. All decoded vectors have norm
sqrt(M), and so have the queries: inner product with normalised centroids (spherical k-means) orders lists as the scores
order vectors. It found more neighbours per probed list than plain k-means where clusters differ in size.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.codes import CODE_BLOCK, code_blocks, decode_codes, pack_codes, sum_codes
from mecoq_faiss.index.exhaustive import disown, fastscan, pq, set_codebooks

SAMPLE_BYTES = 1 << 27  # of decoded codes for k-means, or as much as the index takes where that is more
ITERATIONS = 10
GROUPS = 64  # FastScan lists are made in about so many parts, each of which passes over all codes


def default_nlist(n: int) -> int:
    """About 4 * sqrt(n) as a power of two, with the 39 codes a list that FAISS's k-means asks for."""
    most = max(1, n // 39)
    return 1 << min(round(math.log2(4 * math.sqrt(n))), most.bit_length() - 1)


def default_nprobe(nlist: int) -> int:
    """About 2 * sqrt(nlist)."""
    return min(nlist, round(2 * math.sqrt(nlist)))


def ivfpq(codebooks: np.ndarray, codes: np.ndarray, centroids: np.ndarray, nprobe: int) -> faiss.IndexIVFPQ:
    """IndexIVFPQ of whole vectors (by_residual=False) from codes (n, M), in lists of centroids (nlist, M * d)."""
    index = _empty_ivfpq(codebooks, centroids, by_residual=False)
    index.nprobe = nprobe
    _fill_lists(index, _assign(index.quantizer, codebooks, codes), codes)
    return index


def ivfpq_fastscan(
    codebooks: np.ndarray, codes: np.ndarray, centroids: np.ndarray, nprobe: int
) -> faiss.IndexIVFPQFastScan:
    """The 4-bit FastScan form, from codes (n, M): some lists at a time, so that there is never a second copy of all."""
    index: Any = fastscan(_empty_ivfpq(codebooks, centroids, by_residual=False))
    index.nprobe, nlist = nprobe, len(centroids)
    lists = _assign(index.quantizer, codebooks, codes)
    sizes = np.bincount(lists, minlength=nlist)
    group = np.cumsum(sizes) // max(CODE_BLOCK, len(codes) // GROUPS)
    for first, last in pairwise([*np.unique(group, return_index=True)[1].tolist(), nlist]):
        rows, of_rows = _codes_of(lists, codes, first, last)
        _fill_blocks(index, codebooks, range(first, last), sizes, rows, of_rows)
    index.ntotal = len(codes)
    return index


def zero_ivfpq(codebooks: np.ndarray, codes: np.ndarray, nlist: int) -> faiss.IndexIVFPQ:
    """Exhaustive search as a GPU takes it: residuals of all-zero centroids are the vectors themselves."""
    n, M = codes.shape
    index = _empty_ivfpq(codebooks, np.zeros((nlist, M * codebooks.shape[2]), np.float32), by_residual=True)
    index.nprobe = nlist
    _fill_lists(index, np.arange(n) * nlist // n, codes)
    return index


def coarse_centroids(
    codebooks: np.ndarray, codes: np.ndarray, nlist: int, seed: int, additive: bool = False
) -> np.ndarray:
    """Spherical k-means of decoded codes, (nlist, M * d) float32, each of norm 1.

    Of additive codes k-means of their sums. A centroid w (d,) is M times w / M in a row, which has the inner product
    <q, w> with a repeated query, and <sum, w> / M with chosen codewords in a row: lists and searches agree.
    """
    n, (M, K, d) = len(codes), codebooks.shape
    index_bytes = n * (-(-M * (K.bit_length() - 1) // 8) + 8)  # codes and ids
    size = min(n, 256 * nlist, max(SAMPLE_BYTES, index_bytes) // (4 * M * d))
    edges = np.arange(size + 1) * n // size  # one random row from each of `size` equal stretches
    rows = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    x = (sum_codes if additive else decode_codes)(codebooks, _take_sorted(codes, rows))
    kmeans: Any = faiss.Kmeans(
        x.shape[1], nlist, niter=ITERATIONS, spherical=True, seed=seed,
        min_points_per_centroid=1, max_points_per_centroid=256,
    )  # fmt: skip
    kmeans.train(x)
    return np.tile(kmeans.centroids / M, (1, M)) if additive else kmeans.centroids


def _take_sorted(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """codes[rows] of ascending rows, block after block: of a memory map no more than a few stay in memory."""
    parts = []
    for start, block in code_blocks(codes):
        first, last = np.searchsorted(rows, (start, start + len(block)))
        parts.append(block[rows[first:last] - start])
    return np.concatenate(parts)


def _empty_ivfpq(codebooks: np.ndarray, centroids: np.ndarray, *, by_residual: bool) -> faiss.IndexIVFPQ:
    M, K, d = codebooks.shape
    quantizer = faiss.IndexFlatIP(M * d)
    quantizer.add(centroids)
    nbits = K.bit_length() - 1
    index = faiss.IndexIVFPQ(quantizer, M * d, len(centroids), M, nbits, faiss.METRIC_INNER_PRODUCT)
    disown(quantizer)
    index.own_fields, index.by_residual = True, by_residual
    set_codebooks(index, codebooks)
    return index


def _assign(quantizer: faiss.Index, codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The list of each code (n,), in as few bytes as hold its number."""
    lists = np.empty(len(codes), np.min_scalar_type(quantizer.ntotal - 1))
    for start, block in code_blocks(codes):
        lists[start : start + len(block)] = quantizer.search(decode_codes(codebooks, block), 1)[1][:, 0]  # type: ignore[call-arg]
    return lists


def _fill_lists(index: Any, lists: np.ndarray, codes: np.ndarray) -> None:
    """Add codes (n, M) to their lists (n,), under the ids 0 to n - 1."""
    for number, size in enumerate(np.bincount(lists, minlength=index.nlist)):
        index.invlists.resize(number, int(size))  # the memory once, without a growing list's spare room
        index.invlists.resize(number, 0)
    width = index.coarse_code_size()
    for start, block in code_blocks(codes):
        numbers = lists[start : start + len(block), None].astype("<i8").view(np.uint8)[:, :width]
        index.add_sa_codes(np.hstack([numbers, pack_codes(block, index.pq.nbits)]))


def _codes_of(lists: np.ndarray, codes: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, their codes) of the lists `first` to `last` - 1, list after list."""
    rows, taken = [], []
    for start, block in code_blocks(codes):
        here = lists[start : start + len(block)]
        chosen = np.flatnonzero((here >= first) & (here < last))
        rows.append(start + chosen)
        taken.append(block[chosen])
    joined = np.concatenate(rows)
    order = np.argsort(lists[joined], kind="stable")
    return joined[order], np.concatenate(taken)[order]


def _fill_blocks(
    index: Any, codebooks: np.ndarray, numbers: range, sizes: np.ndarray, rows: np.ndarray, codes: np.ndarray
) -> None:
    """Write codes (of the lists `numbers` in turn) and their rows into the lists, in FastScan's interleaved blocks.

    FastScan fills the last block of a list with zeros: with as many zero codes between, all lists are made at once.
    """
    counts = sizes[numbers.start : numbers.stop]
    padded = -(-counts // index.bbs) * index.bbs
    starts, padded_starts = np.cumsum(counts) - counts, np.cumsum(padded) - padded
    spread = np.zeros((int(padded.sum()), codes.shape[1]), np.uint8)
    spread[np.arange(len(codes)) + np.repeat(padded_starts - starts, counts)] = codes
    blocks: Any = fastscan(pq(codebooks, spread))
    code_bytes = blocks.M2 // 2
    content = faiss.rev_swig_ptr(blocks.codes.get(), len(spread) * code_bytes)
    invlists = faiss.downcast_InvertedLists(index.invlists)
    for number, count, size, start, padded_start in zip(
        numbers, counts.tolist(), padded.tolist(), starts.tolist(), padded_starts.tolist(), strict=True
    ):
        if count:
            invlists.resize(number, count)
            written = content[padded_start * code_bytes : (padded_start + size) * code_bytes]
            faiss.rev_swig_ptr(invlists.get_codes(number), size * code_bytes)[:] = written
            faiss.rev_swig_ptr(invlists.get_ids(number), count)[:] = rows[start : start + count]
