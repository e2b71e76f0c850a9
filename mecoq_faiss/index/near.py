"""Which of an index's codes stand for nearly the same vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import faiss
import numpy as np

from mecoq_faiss.index.codes import CODE_BLOCK, NORM_TOLERANCE, code_blocks, decode_codes, unit_sums
from mecoq_faiss.index.exhaustive import pq

SCORES = 1 << 24  # at most so many are found at once; fewer pairs are not divided
QUERIES = 1024  # at most so many are searched at once
WORTH = 0.5  # pairs are divided where no more than this share of them is left

Pairs = tuple[np.ndarray, np.ndarray]
_Groups = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Search(NamedTuple):
    """What is compared: codes (n, M), their vectors, an index of some of them, and which codewords may be a pair's."""

    codes: np.ndarray  # (n, M) uint8
    threshold: float
    vectors: Callable[[np.ndarray], np.ndarray]  # codes (m, M) -> (m, D)
    index_of: Callable[[np.ndarray], faiss.Index]  # codes (m, M) -> an index of their vectors
    near: np.ndarray  # (M, K, K)


def near_codes(codebooks: np.ndarray, codes: np.ndarray, threshold: float, additive: bool = False) -> Iterator[Pairs]:
    """Pairs of rows whose vectors have an inner product above `threshold`, in batches.

    A segment adds at most 1 to it. So codewords of a pair have an inner product above threshold - (M - 1) in every
    segment, and only codes of which that is true are compared: at a threshold near M about one in K, in the segment
    that divides them best. Below that it is all codes against all.

    Of additive codes the vectors are the directions of the sums, and the inner product is their cosine. Those with one
    codeword lie around their mean: on the line between two means a pair is no further apart than the threshold allows,
    and only codes of groups that come so near on it are compared.

    Args:
        codebooks: (M, K, d) float32, every codeword of norm 1: the vectors are normalized in every segment. Additive
            ones have any norm.
        codes: (n, M) uint8; equal rows make n^2 pairs, so give each once.
        threshold: from -M to M, of additive codes from -1 to 1.
        additive: codes stand for sums.

    Yields:
        `first` and `second`, (p,) int64 each, first < second; each pair once.
    """
    M = len(codebooks)
    if additive:
        search = _Search(
            codes,
            threshold,
            lambda some: unit_sums(codebooks, some),
            lambda some: _flat(unit_sums(codebooks, some)),
            _near_groups(codebooks, codes, threshold),
        )
    else:
        least = threshold - (M - 1) * (1 + 3 * NORM_TOLERANCE)  # of a segment, where all others add the most
        near = np.einsum("mkd,mjd->mkj", codebooks, codebooks) > least - NORM_TOLERANCE  # (M, K, K)
        search = _Search(
            codes, threshold, lambda some: decode_codes(codebooks, some), lambda some: pq(codebooks, some), near
        )
    everyone = np.arange(len(codes))
    yield from _compared(search, everyone, everyone, frozenset(range(M)))


def _flat(x: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    return index


def _near_groups(codebooks: np.ndarray, codes: np.ndarray, threshold: float) -> np.ndarray:
    """Of each codebook, which two codewords a pair may have, (M, K, K) bool: a bound, no estimate.

    With the groups' means w, of x in group k and y in group j: (x - y) (w_k - w_j) <= |x - y| |w_k - w_j|, and the left
    side is no less than the least x (w_k - w_j) plus the least y (w_j - w_k).
    """
    M, K, d = codebooks.shape
    apart = np.sqrt(max(0.0, 2 - 2 * threshold)) + NORM_TOLERANCE  # the most that |x - y| can be
    means, least = np.zeros((M, K, d), np.float32), np.full((M, K, K), np.inf, np.float32)
    for m, words, starts, _, x in _by_codeword(codebooks, codes):
        means[m, words] += np.add.reduceat(x, starts, axis=0)
    for m in range(M):
        means[m] /= np.maximum(np.bincount(codes[:, m], minlength=K), 1)[:, None]
    for m, words, starts, own, x in _by_codeword(codebooks, codes):
        along = x @ means[m].T  # (b, K)
        along = along[np.arange(len(x)), own][:, None] - along  # x (w_k - w_j) of each j
        least[m, words] = np.minimum(least[m, words], np.minimum.reduceat(along, starts, axis=0))
    lengths = np.stack([np.linalg.norm(w[:, None] - w, axis=2) for w in means])
    return least + least.transpose(0, 2, 1) <= apart * lengths + NORM_TOLERANCE


def _by_codeword(codebooks: np.ndarray, codes: np.ndarray) -> Iterator[tuple[int, *_Groups]]:
    """Blocks of codes, by each codebook m: (m, codewords that occur, their first rows, codewords (b,), unit sums)."""
    for _, block in code_blocks(codes):
        x = unit_sums(codebooks, block)
        for m in range(len(codebooks)):
            order = np.argsort(block[:, m], kind="stable")
            own = block[order, m]
            yield m, *np.unique(own, return_index=True), own, x[order]


def _compared(search: _Search, some: np.ndarray, others: np.ndarray, segments: frozenset[int]) -> Iterator[Pairs]:
    """Pairs of `some` rows with `others`, both rising; divided by the codewords of the best of `segments`."""
    codes, near, pairs = search.codes, search.near, len(some) * len(others)
    if not pairs:
        return
    if pairs > SCORES and segments:
        left = {m: _left(codes[some, m], codes[others, m], near[m]) for m in segments}
        best = min(left, key=lambda m: left[m])
        if left[best] <= WORTH * pairs:
            mine, theirs = codes[some, best], codes[others, best]
            for k in np.unique(mine):
                parts = some[mine == k], others[near[best, k, theirs]]
                yield from _compared(search, *parts, segments - {best})
            return
    for start in range(0, len(others), CODE_BLOCK):  # an index holds the vectors of no more
        yield from _above(search, some, others[start : start + CODE_BLOCK])


def _above(search: _Search, some: np.ndarray, others: np.ndarray) -> Iterator[Pairs]:
    """Pairs of `some` rows with `others`, by a search of all."""
    index = search.index_of(search.codes[others])
    size = max(1, min(QUERIES, SCORES // len(others)))
    for start in range(0, len(some), size):
        rows = some[start : start + size]
        ends, _, found = index.range_search(search.vectors(search.codes[rows]), search.threshold)
        ends = ends.astype(np.int64)
        first, second = np.repeat(rows, ends[1:] - ends[:-1]), others[found]
        rising = first < second
        yield first[rising], second[rising]


def _left(mine: np.ndarray, theirs: np.ndarray, near: np.ndarray) -> int:
    """How many pairs have near codewords in a segment."""
    K = len(near)
    return int(np.bincount(mine, minlength=K) @ (near @ np.bincount(theirs, minlength=K)))
