"""The additive quantizer against all sums that there are, and against FAISS."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch

from mecoq_faiss.additive import AdditiveQuantizer, beam_search
from mecoq_faiss.index import build_index, read_codes
from mecoq_faiss.index.codes import decode_codes, sum_codes

M, K, D = 3, 4, 5


@pytest.fixture
def quantizer() -> AdditiveQuantizer:
    q = AdditiveQuantizer(D, M, K)
    q.set_codebooks(torch.randn(M, K, D, generator=torch.Generator().manual_seed(0)))
    return q


def embeddings(n: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(1)), dim=1)


def test_a_beam_that_holds_all_finds_the_nearest_sum(quantizer: AdditiveQuantizer) -> None:
    z, C = embeddings(40).double().numpy(), quantizer.codebooks.double().numpy()
    every = list(product(range(K), repeat=M))
    all_sums = np.array([sum(C[m, k] for m, k in enumerate(code)) for code in every])
    nearest = ((z[:, None] - all_sums) ** 2).sum(axis=2).argmin(axis=1)
    expected = np.array(every)[nearest]
    np.testing.assert_array_equal(beam_search(quantizer.codebooks, embeddings(40), beam=K**M), expected)
    np.testing.assert_array_equal(quantizer.encode(quantizer.queries(embeddings(40))), expected)  # 16 = K**2 of 3
    np.testing.assert_allclose(quantizer.decode(torch.from_numpy(expected)), all_sums[nearest], atol=1e-6)


def test_a_wider_beam_is_nearer_and_blocks_change_nothing(
    quantizer: AdditiveQuantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, C = embeddings(301), quantizer.codebooks

    def error(beam: int) -> float:
        return float((z - quantizer.decode(beam_search(C, z, beam))).square().sum())

    assert error(64) < error(4) < error(1)
    whole = beam_search(C, z, 4)
    monkeypatch.setattr("mecoq_faiss.additive.BLOCK_FLOATS", 4 * D * 10)
    assert torch.equal(beam_search(C, z, 4), whole)
    assert beam_search(C, z[:0]).shape == (0, M)


def test_a_plain_index_gives_the_scores_of_sums_and_adds_the_codes(quantizer: AdditiveQuantizer) -> None:
    xq, codebooks = quantizer.queries(3 * embeddings(50)), quantizer.index_codebooks().numpy()
    codes = quantizer.encode(xq).numpy()
    index = build_index(codebooks, codes, additive=True)
    scores, I = index.search(xq[:9].numpy(), 50)
    expected = embeddings(50)[:9].numpy() @ sum_codes(codebooks, codes).T
    np.testing.assert_allclose(scores, np.take_along_axis(expected, I, axis=1), atol=1e-5)
    by_torch = quantizer.similarities(xq[:9]).gather(2, torch.from_numpy(codes.astype(int)).T.expand(9, M, 50)).sum(1)
    np.testing.assert_allclose(by_torch, expected, atol=1e-5)
    index.add(decode_codes(codebooks, codes))
    np.testing.assert_array_equal(read_codes(index)[50:], codes)


def test_sizes_out_of_range_are_refused() -> None:
    for sizes in ((0, 2, 4), (8, 0, 4), (8, 2, 1), (8, 2, 257)):
        with pytest.raises(ValueError, match=r"must be at least 1|choose 2 to 256"):
            AdditiveQuantizer(*sizes)


def test_it_is_fitted_once_it_has_codebooks(quantizer: AdditiveQuantizer) -> None:
    loaded = AdditiveQuantizer(D, M, K)
    assert not loaded.is_fitted
    loaded.load_state_dict(quantizer.state_dict())
    assert loaded.is_fitted and copy.deepcopy(loaded).is_fitted
    assert quantizer.is_fitted and not AdditiveQuantizer(D, M, K).is_fitted
    assert not any(p.requires_grad for p in quantizer.parameters()), "training of the embedding leaves it alone"
