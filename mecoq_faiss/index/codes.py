"""Codebooks and codes as plain arrays: their checks, their vectors, their pairs. Numpy only.

Everywhere: codebooks (M, K, d) float32, every codeword of norm 1 (additive ones have any norm, and d is their whole
width); codes (n, M) uint8, one byte a code for any K.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NORM_TOLERANCE = 1e-4
CODE_BLOCK = 1 << 16  # rows handled at once wherever codes turn into floats


def check_codebooks(codebooks: np.ndarray, additive: bool = False) -> tuple[int, int, int]:
    """(M, K, d) of valid codebooks; ValueError names what is wrong with others. Additive ones may have any norms."""
    if not isinstance(codebooks, np.ndarray) or codebooks.ndim != 3 or 0 in codebooks.shape:
        raise ValueError(f"codebooks must be an array (M, K, d), got {_seen(codebooks)}")
    if codebooks.dtype != np.float32:
        raise ValueError(f"codebooks must be float32, got {codebooks.dtype}: use codebooks.astype('float32')")
    if not np.isfinite(codebooks).all():
        raise ValueError("codebooks hold NaN or infinite values: the training diverged, lower its learning rate")
    off = float(np.abs(np.linalg.norm(codebooks.astype(np.float64), axis=-1) - 1).max())
    if off > NORM_TOLERANCE and not additive:
        raise ValueError(f"codewords must have norm 1, got one that is off by {off:.3g}: divide each by its norm")
    M, K, d = codebooks.shape
    return M, K, d


def check_codes(codes: np.ndarray, M: int, K: int) -> int:
    """N of valid codes; ValueError names what is wrong with others."""
    if getattr(codes, "ndim", 0) != 2 or codes.shape[1] != M:
        raise ValueError(f"codes must be an array (n, {M}), one byte a code even for K=16, got {_seen(codes)}")
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, got {codes.dtype}: use codes.astype('uint8')")
    if len(codes) == 0:
        raise ValueError("codes are empty: an index needs at least one image")
    largest = max(int(block.max()) for _, block in code_blocks(codes))
    if largest >= K:
        raise ValueError(f"codes reach {largest}, but a codebook has K={K} codewords: codes and codebooks differ")
    return len(codes)


def code_blocks(codes: np.ndarray, size: int = CODE_BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of codes, `size` at a time: (number of the first, block)."""
    for start in range(0, len(codes), size):
        yield start, codes[start : start + size]


def decode_codes(codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The vectors that codes stand for, (n, M * d) float32: codewords side by side (Eq. 5)."""
    M, K, d = codebooks.shape
    return codebooks.reshape(M * K, d).take(codes + K * np.arange(M), axis=0).reshape(len(codes), M * d)


def sum_codes(codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The vectors that additive codes stand for, (n, d) float32: the sum of their codewords."""
    M, _, d = codebooks.shape
    return decode_codes(codebooks, codes).reshape(-1, M, d).sum(axis=1)


def unit_sums(codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The directions of the vectors that additive codes stand for, (n, d) float32."""
    return directions(sum_codes(codebooks, codes))


def directions(x: np.ndarray) -> np.ndarray:
    """Vectors (n, d) float32, each divided by its norm; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def pack_codes(codes: np.ndarray, nbits: int) -> np.ndarray:
    """Codes (n, M), one byte each -> FAISS's rows of ceil(M * nbits / 8) bytes, lowest bits first."""
    n, M = codes.shape
    if nbits == 8:
        return np.ascontiguousarray(codes)
    # Not faiss.pack_bitstrings, which the tests compare with: it copies all codes to int32, and this room is numpy's.
    if nbits == 4 and M % 2 == 0:  # far faster than bit by bit
        pairs = np.ascontiguousarray(codes).view("<u2")  # first code in the low byte
        return (pairs | pairs >> 4).astype(np.uint8)
    bits = np.unpackbits(codes[:, :, None], axis=2, count=nbits, bitorder="little")  # (n, M, nbits)
    return np.packbits(bits.reshape(n, M * nbits), axis=1, bitorder="little")


def unpack_codes(packed: np.ndarray, M: int, nbits: int) -> np.ndarray:
    """The inverse of `pack_codes`, (n, M) uint8."""
    n = len(packed)
    if nbits == 8:
        return packed
    if nbits == 4:
        return np.stack([packed & 15, packed >> 4], axis=2).reshape(n, -1)[:, :M]
    bits = np.unpackbits(packed, axis=1, count=M * nbits, bitorder="little").reshape(n, M, nbits)
    return np.packbits(bits, axis=2, bitorder="little")[:, :, 0]


def pair_codebooks(codebooks: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring subquantizers joined: the same vectors and scores from half as many, K * K codewords each.

    4-bit codes become ordinary 8-bit ones, which FAISS scans far faster than 4-bit `IndexPQ`.

    Args:
        codebooks: (M, K, d) with even M and K at most 16.
        codes: (n, M) uint8.

    Returns:
        Codebooks (M / 2, K * K, 2 * d), codewords of norm sqrt(2), and codes (n, M / 2) uint8 with
        byte j = codes[:, 2 * j] + K * codes[:, 2 * j + 1]; for K = 16 these are FAISS's own packed bytes.

    Raises:
        ValueError: M is odd, or a pair does not fit into a byte.
    """
    M, K, d = codebooks.shape
    if M % 2 or K > 16:
        raise ValueError(f"pairs need an even M and K of at most 16, got M={M}, K={K}")
    low, high = codebooks[0::2, None, :, :], codebooks[1::2, :, None, :]  # (M/2, 1, K, d), (M/2, K, 1, d)
    shape = (M // 2, K, K, d)
    pairs = np.concatenate([np.broadcast_to(low, shape), np.broadcast_to(high, shape)], axis=-1)
    return pairs.reshape(M // 2, K * K, 2 * d), codes[:, 0::2] + np.uint8(K) * codes[:, 1::2]


def _seen(value: object) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
