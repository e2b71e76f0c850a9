"""Made-up data of any size for the speed benchmarks: clustered vectors, their codes, image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
from PIL import Image

BLOCK = 1 << 17
NOISE = 0.7  # norm of a vector's distance to its cluster's centre, in each segment of norm 1
TRAIN = 1 << 16


class Mixture:
    """Vectors around random centres, D wide, each of `segments` parts of norm 1. Block i is always the same."""

    def __init__(self, D: int, segments: int, clusters: int, seed: int = 0) -> None:
        self.D, self.segments, self.clusters, self.seed = D, segments, clusters, seed
        self.centers = np.random.default_rng(seed).standard_normal((clusters, D), np.float32)

    def block(self, number: int, rows: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (rows, D) float32 and their clusters (rows,)."""
        rng = np.random.default_rng((self.seed, 1, number))
        label = rng.integers(0, self.clusters, rows)
        x = self.centers[label] + NOISE * rng.standard_normal((rows, self.D), np.float32)
        return unit(x, self.segments), label

    def blocks(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(-(-n // BLOCK)):
            x, label = self.block(number)
            rows = min(BLOCK, n - number * BLOCK)
            yield x[:rows], label[:rows]

    def queries(self, nq: int) -> tuple[np.ndarray, np.ndarray]:
        return self.block(-1 & 0xFFFF_FFFF, nq)


def unit(x: np.ndarray, segments: int) -> np.ndarray:
    """X (n, D) with every segment divided by its norm."""
    parts = x.reshape(len(x), segments, -1)
    return (parts / np.linalg.norm(parts, axis=2, keepdims=True)).reshape(x.shape)


def codebooks_for(mixture: Mixture, M: int, nbits: int) -> np.ndarray:
    """(M, K, d) float32: k-means of a sample, codewords then divided by their norms."""
    x, _ = mixture.block(0, TRAIN)
    quantizer = faiss.ProductQuantizer(mixture.D, M, nbits)
    quantizer.cp.niter = 5
    quantizer.train(unit(x, M))
    books = faiss.vector_to_array(quantizer.centroids).reshape(M, quantizer.ksub, quantizer.dsub)
    return books / np.linalg.norm(books, axis=2, keepdims=True)


def encode(codebooks: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Codes (n, M) uint8 of Eq. 15: in each segment the codeword of largest inner product."""
    M, _, d = codebooks.shape
    codes = np.empty((len(x), M), np.uint8)
    for m in range(M):
        codes[:, m] = (x[:, m * d : (m + 1) * d] @ codebooks[m].T).argmax(1)
    return codes


def jpegs(folder: Path, count: int, side: int) -> Path:
    """A folder of `count` JPEG files, smooth pictures of side x side pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)
    return folder
