"""The proof of an index: its scores against brute force, and that it finds what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mecoq_faiss.bundle.proof import VerificationError, best_scores, scores_of, table_rounding, verify
from mecoq_faiss.index import build_index
from mecoq_faiss.quantizer import SoftProductQuantizer
from tests.exact import search_exact


def unit_queries(quantizer: SoftProductQuantizer, nq: int = 11) -> np.ndarray:
    z = torch.randn(nq, quantizer.dim, generator=torch.Generator().manual_seed(0))
    return quantizer.segments(z).flatten(1).numpy()


@pytest.fixture
def parts() -> tuple[SoftProductQuantizer, np.ndarray, np.ndarray, np.ndarray]:
    """A quantizer, its codebooks, 5,003 codes and queries."""
    torch.manual_seed(0)
    quantizer = SoftProductQuantizer(24, 4, 16)
    codes = np.random.default_rng(0).integers(0, 16, (5003, 4), dtype=np.uint8)
    return quantizer, quantizer.unit_codebooks().detach().numpy(), codes, unit_queries(quantizer)


def test_best_scores_are_those_of_brute_force(parts: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mecoq_faiss.bundle.proof.BLOCK_SCORES", 5000)  # blocks that do not divide n
    quantizer, books, codes, xq = parts
    for k in (1, 10, 700):
        D, I = search_exact(books, codes, xq, k)
        np.testing.assert_allclose(best_scores(quantizer, xq, codes, k), D, atol=1e-5)
        np.testing.assert_allclose(scores_of(quantizer, xq, codes[I]), D, atol=1e-5)


def test_fastscan_stays_within_its_table_rounding(parts: tuple) -> None:
    quantizer, books, codes, xq = parts
    D, I = build_index(books, codes, "pqfs").search(xq, 50)
    off = np.abs(D - scores_of(quantizer, xq, codes[I])).max(axis=1)
    bound, _ = table_rounding(quantizer, xq)
    assert (off <= bound + 1e-5).all() and (off > bound / 20).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("pq", {}), ("pqfs", {}), ("ivfpq", {"nprobe": 1}), ("ivfpqfs", {"nprobe": 2, "refine": True})],
)
def test_the_recall_in_the_proof_is_that_of_a_search(parts: tuple, kind: str, options: dict) -> None:
    """Of the ten found by a search for ten, also where the proof need not search a second time."""
    quantizer, books, codes, xq = parts
    index = build_index(books, codes, kind, **options)
    I = index.search(xq, 10)[1]
    kth = search_exact(books, codes, xq, 10)[0][:, -1:]
    share = ((scores_of(quantizer, xq, codes[np.maximum(I, 0)]) >= kth - 1e-4) & (I >= 0)).mean()
    assert verify(index, books, quantizer, codes, xq)["recall_at_10"] == pytest.approx(share)
    assert (share < 1) == kind.startswith("ivf")


@pytest.mark.parametrize("kind", ["pq", "pqfs", "ivfpq", "ivfpqfs"])
def test_the_proof_finds_what_is_wrong(parts: tuple, kind: str) -> None:
    quantizer, books, codes, xq = parts
    index = build_index(books, codes, kind)
    assert verify(index, books, quantizer, codes, xq)["queries"] == 11
    other = codes.copy()
    other[::2] = other[::2][:, ::-1]
    with pytest.raises(VerificationError, match="scores differ"):
        verify(index, books, quantizer, other, xq)
    with pytest.raises(VerificationError, match="of the top 100 agree"):
        verify(build_index(books, codes[:2500], kind), books, quantizer, codes, xq)
    with pytest.raises(VerificationError, match="ids"):
        verify(index, books, quantizer, codes, xq, ids=np.arange(5003))
    with pytest.raises(VerificationError, match="encoded again"):
        verify(index, books, quantizer, codes, xq, (np.arange(9), codes[:9] ^ 1))
    with pytest.raises(VerificationError, match="codebook"):
        verify(index, books[:, ::-1], quantizer, codes, xq)
