"""Which of an index's codes stand for nearly the same vector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.index.exhaustive import pq

SCORES = 1 << 24  # at most so many are found at once
QUERIES = 1024  # at most so many are searched at once


def near_codes(codebooks: np.ndarray, codes: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows whose vectors have an inner product above `threshold`, in batches: all codes against all.

    Args:
        codebooks: (M, K, d) float32, every codeword of norm 1: the vectors are normalized in every segment.
        codes: (n, M) uint8; equal rows make n^2 pairs, so give each once.
        threshold: from -M to M.

    Yields:
        `first` and `second`, (p,) int64 each, first < second; each pair once.
    """
    index = pq(codebooks, codes)
    size = max(1, min(QUERIES, SCORES // len(codes)))
    for start in range(0, len(codes), size):
        ends, _, second = index.range_search(decode_codes(codebooks, codes[start : start + size]), threshold)
        ends = ends.astype(np.int64)
        first = start + np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])
        rising = first < second
        yield first[rising], second[rising]
