"""Pairs of near codes are those of all against all, however they are divided."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mecoq_faiss.index import near as module
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.index.exhaustive import pq
from mecoq_faiss.index.near import near_codes


def made_up(M: int, K: int, n: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Codebooks of which some codewords are close to each other, and different codes, some of them near."""
    rng = np.random.default_rng(M)
    centers = rng.normal(size=(M, clusters, 6))
    codebooks = centers[:, rng.integers(0, clusters, K)] + 0.15 * rng.normal(size=(M, K, 6))
    codebooks = (codebooks / np.linalg.norm(codebooks, axis=2, keepdims=True)).astype(np.float32)
    return codebooks, np.unique(rng.integers(0, K, (n, M), dtype=np.uint8), axis=0)


def all_against_all(codebooks: np.ndarray, codes: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    ends, _, second = pq(codebooks, codes).range_search(decode_codes(codebooks, codes), threshold)
    ends = ends.astype(np.int64)
    first = np.repeat(np.arange(len(codes)), ends[1:] - ends[:-1])
    return {(int(i), int(j)) for i, j in zip(first, second, strict=True) if i < j}


@pytest.mark.parametrize("share", [0.98, 0.95, 0.8, 0.3, -1.0])
@pytest.mark.parametrize(("M", "K"), [(2, 256), (4, 16), (3, 16)])
def test_pairs_are_those_of_all_against_all(share: float, M: int, K: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", 500)  # so that pairs are divided, more than once
    codebooks, codes = made_up(M, K, 400, 8)
    codes = np.random.default_rng(0).permutation(codes)
    expected = all_against_all(codebooks, codes, share * M)
    found = [pair for first, second in near_codes(codebooks, codes, share * M)
             for pair in zip(first.tolist(), second.tolist(), strict=True)]  # fmt: skip
    assert set(found) == expected and len(found) == len(expected)
    assert share < 0 or expected or share > 0.95


def sums_made_up(M: int, K: int, n: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Codebooks whose first codewords lie around `clusters` centers, the further ones ever smaller; different codes."""
    rng = np.random.default_rng(M)
    centers = rng.normal(size=(clusters, 6))
    codebooks = rng.normal(size=(M, K, 6)) * 0.1 ** np.arange(1, M + 1)[:, None, None]
    codebooks[0] += centers[rng.integers(0, clusters, K)]
    codes = np.unique(rng.integers(0, K, (n, M), dtype=np.uint8), axis=0)
    return codebooks.astype(np.float32), rng.permutation(codes)


def cosines(codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    x = sum(book[code].astype(np.float64) for book, code in zip(codebooks, codes.T, strict=True))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.mark.parametrize("threshold", [0.999, 0.98, 0.8, 0.0, -1.0])
@pytest.mark.parametrize(("M", "K"), [(2, 256), (4, 16), (3, 16)])
def test_pairs_of_sums_are_those_of_their_cosines(
    threshold: float, M: int, K: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES", 500)
    monkeypatch.setattr(module, "CODE_BLOCK", 90)
    codebooks, codes = sums_made_up(M, K, 400, 8)
    found = [pair for first, second in near_codes(codebooks, codes, threshold, additive=True)
             for pair in zip(first.tolist(), second.tolist(), strict=True)]  # fmt: skip
    score, rising = cosines(codebooks, codes), np.triu(np.ones((len(codes), len(codes)), bool), 1)
    surely, perhaps = (set(zip(*map(np.ndarray.tolist, np.nonzero(rising & (score > threshold + off))), strict=True))
                       for off in (1e-6, -1e-6))  # fmt: skip
    assert len(set(found)) == len(found) and surely <= set(found) <= perhaps and surely


@pytest.mark.parametrize("additive", [False, True])
def test_high_thresholds_compare_few_pairs(additive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", 1000)
    codebooks, codes = (sums_made_up if additive else made_up)(4, 256, 20_000, 64)
    compared = 0

    def counted(search: module._Search, some: np.ndarray, others: np.ndarray) -> Iterator[module.Pairs]:
        nonlocal compared
        compared += len(some) * len(others)
        yield from above(search, some, others)

    above = module._above
    monkeypatch.setattr(module, "_above", counted)
    threshold = 0.98 if additive else 0.98 * 4
    assert sum(len(first) for first, _ in near_codes(codebooks, codes, threshold, additive)) > 0
    assert compared < len(codes) ** 2 / 20


def test_one_code_or_none_near() -> None:
    codebooks, codes = made_up(2, 16, 1, 4)
    assert all(len(first) == 0 for first, _ in near_codes(codebooks, codes, 1.9))
