"""Inverted lists from codes alone: coarse centroids and list numbers come from the decoded codes.

Codes stand for whole vectors, so lists only choose which of them a search scores. All decoded vectors have norm
sqrt(M), and so have the queries: inner product with normalised centroids (spherical k-means) orders lists as the scores
order vectors. It found more neighbours per probed list than plain k-means where clusters differ in size.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from .codes import code_blocks, decode_codes, pack_codes
from .indexpq import disown, set_codebooks

SAMPLE = 1 << 21  # rows of k-means at most: half a gigabyte of floats at D = 64
ITERATIONS = 10


def default_nlist(n: int) -> int:
    """About 4 * sqrt(n) as a power of two, with the 39 codes a list that FAISS's k-means asks for."""
    most = max(1, n // 39)
    return 1 << min(round(math.log2(4 * math.sqrt(n))), most.bit_length() - 1)


def default_nprobe(nlist: int) -> int:
    """About 2 * sqrt(nlist)."""
    return min(nlist, round(2 * math.sqrt(nlist)))


def ivfpq(codebooks: np.ndarray, codes: np.ndarray, nlist: int, nprobe: int, seed: int) -> faiss.IndexIVFPQ:
    """IndexIVFPQ of whole vectors (by_residual=False) from codes (n, M)."""
    index = _empty_ivfpq(codebooks, coarse_centroids(codebooks, codes, nlist, seed), by_residual=False)
    index.nprobe = nprobe
    lists = np.empty(len(codes), np.int64)
    for start, block in code_blocks(codes):
        lists[start : start + len(block)] = index.quantizer.search(decode_codes(codebooks, block), 1)[1][:, 0]
    _fill_lists(index, lists, codes)
    return index


def zero_ivfpq(codebooks: np.ndarray, codes: np.ndarray, nlist: int) -> faiss.IndexIVFPQ:
    """Exhaustive search as a GPU takes it: residuals of all-zero centroids are the vectors themselves."""
    n, M = codes.shape
    index = _empty_ivfpq(codebooks, np.zeros((nlist, M * codebooks.shape[2]), np.float32), by_residual=True)
    index.nprobe = nlist
    _fill_lists(index, np.arange(n) * nlist // n, codes)
    return index


def coarse_centroids(codebooks: np.ndarray, codes: np.ndarray, nlist: int, seed: int) -> np.ndarray:
    """Spherical k-means of decoded codes, (nlist, D) float32, each of norm 1."""
    n, size = len(codes), min(len(codes), 256 * nlist, SAMPLE)
    edges = np.arange(size + 1) * n // size  # one random row from each of `size` equal stretches
    rows = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    x = decode_codes(codebooks, codes[rows])
    kmeans: Any = faiss.Kmeans(
        x.shape[1], nlist, niter=ITERATIONS, spherical=True, seed=seed,
        min_points_per_centroid=1, max_points_per_centroid=256,
    )  # fmt: skip
    kmeans.train(x)
    return kmeans.centroids


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


def _fill_lists(index: Any, lists: np.ndarray, codes: np.ndarray) -> None:
    """Add codes (n, M) to their lists (n,) int64, under the ids 0 to n - 1."""
    for number, size in enumerate(np.bincount(lists, minlength=index.nlist)):
        index.invlists.resize(number, int(size))  # the memory once, without a growing list's spare room
        index.invlists.resize(number, 0)
    width = index.coarse_code_size()
    for start, block in code_blocks(codes):
        numbers = lists[start : start + len(block), None].astype("<i8").view(np.uint8)[:, :width]
        index.add_sa_codes(np.hstack([numbers, pack_codes(block, index.pq.nbits)]))
