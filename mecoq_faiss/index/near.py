"""Which of an index's codes stand for nearly the same vector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mecoq_faiss.index.codes import NORM_TOLERANCE, decode_codes
from mecoq_faiss.index.exhaustive import pq

SCORES = 1 << 24  # at most so many are found at once; fewer pairs are not divided
QUERIES = 1024  # at most so many are searched at once
WORTH = 0.5  # pairs are divided where no more than this share of them is left

Pairs = tuple[np.ndarray, np.ndarray]


def near_codes(codebooks: np.ndarray, codes: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """Pairs of rows whose vectors have an inner product above `threshold`, in batches.

    A segment adds at most 1 to it. So codewords of a pair have an inner product above threshold - (M - 1) in every
    segment, and only codes of which that is true are compared: at a threshold near M about one in K, in the segment
    that divides them best. Below that it is all codes against all.

    Args:
        codebooks: (M, K, d) float32, every codeword of norm 1: the vectors are normalized in every segment.
        codes: (n, M) uint8; equal rows make n^2 pairs, so give each once.
        threshold: from -M to M.

    Yields:
        `first` and `second`, (p,) int64 each, first < second; each pair once.
    """
    M = len(codebooks)
    least = threshold - (M - 1) * (1 + 3 * NORM_TOLERANCE)  # of a segment, where all others add the most
    near = np.einsum("mkd,mjd->mkj", codebooks, codebooks) > least - NORM_TOLERANCE  # (M, K, K)
    everyone = np.arange(len(codes))
    yield from _compared(codebooks, codes, threshold, near, everyone, everyone, frozenset(range(M)))


def _compared(
    codebooks: np.ndarray, codes: np.ndarray, threshold: float, near: np.ndarray,
    some: np.ndarray, others: np.ndarray, segments: frozenset[int],
) -> Iterator[Pairs]:  # fmt: skip
    """Pairs of `some` rows with `others`, both rising; divided by the codewords of the best of `segments`."""
    pairs, K = len(some) * len(others), codebooks.shape[1]
    if not pairs:
        return
    if pairs > SCORES and segments:
        left = {m: _left(codes[some, m], codes[others, m], near[m], K) for m in segments}
        best = min(left, key=lambda m: left[m])
        if left[best] <= WORTH * pairs:
            mine, theirs = codes[some, best], codes[others, best]
            for k in np.unique(mine):
                parts = some[mine == k], others[near[best, k, theirs]]
                yield from _compared(codebooks, codes, threshold, near, *parts, segments - {best})
            return
    index = pq(codebooks, codes[others])
    size = max(1, min(QUERIES, SCORES // len(others)))
    for start in range(0, len(some), size):
        rows = some[start : start + size]
        ends, _, found = index.range_search(decode_codes(codebooks, codes[rows]), threshold)
        ends = ends.astype(np.int64)
        first, second = np.repeat(rows, ends[1:] - ends[:-1]), others[found]
        rising = first < second
        yield first[rising], second[rising]


def _left(mine: np.ndarray, theirs: np.ndarray, near: np.ndarray, K: int) -> int:
    """How many pairs have near codewords in a segment."""
    return int(np.bincount(mine, minlength=K) @ (near @ np.bincount(theirs, minlength=K)))
