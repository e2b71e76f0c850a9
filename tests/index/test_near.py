"""Pairs of near codes are those of all against all, however they are divided."""

from __future__ import annotations

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


def test_high_thresholds_compare_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", 1000)
    codebooks, codes = made_up(4, 256, 20_000, 64)
    compared: list[int] = []

    def counted(codebooks: np.ndarray, some: np.ndarray) -> np.ndarray:
        compared.append(len(some))
        return decode_codes(codebooks, some)

    def built_of(codebooks: np.ndarray, some: np.ndarray) -> object:
        built.append(len(some))
        return pq(codebooks, some)

    built: list[int] = []
    monkeypatch.setattr(module, "decode_codes", counted)
    monkeypatch.setattr(module, "pq", built_of)
    assert sum(len(first) for first, _ in near_codes(codebooks, codes, 0.98 * 4)) > 0
    assert sum(compared) * max(built) < len(codes) ** 2 / 20


def test_one_code_or_none_near() -> None:
    codebooks, codes = made_up(2, 16, 1, 4)
    assert all(len(first) == 0 for first, _ in near_codes(codebooks, codes, 1.9))
