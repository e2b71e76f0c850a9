"""The quantizer against loops written from the paper, and against FAISS."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mecoq_faiss.index import build_index
from mecoq_faiss.quantizer import SoftProductQuantizer

M, K, d = 3, 16, 5
D = M * d


@pytest.fixture
def quantizer() -> SoftProductQuantizer:
    torch.manual_seed(0)
    return SoftProductQuantizer(D, M, K, alpha=7.0)


def embeddings(n: int, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt((v**2).sum())


def by_loops(z: np.ndarray, codebooks: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Soft codes (Eq. 1, 3, 4), reconstructions (Eq. 2, 5), hard codes (Eq. 15), in float64."""
    p, z_hat, codes = np.zeros((len(z), M, K)), np.zeros((len(z), D)), np.zeros((len(z), M), int)
    for b in range(len(z)):
        for m in range(M):
            segment = unit(z[b, m * d : (m + 1) * d])
            scores = [segment @ unit(codebooks[m, i]) for i in range(K)]
            total = sum(np.exp(alpha * s) for s in scores)
            for i in range(K):
                p[b, m, i] = np.exp(alpha * scores[i]) / total
                z_hat[b, m * d : (m + 1) * d] += p[b, m, i] * unit(codebooks[m, i])
            codes[b, m] = int(np.argmax(scores))
    return p, z_hat, codes


def test_equations(quantizer: SoftProductQuantizer) -> None:
    with torch.no_grad():  # Eq. 1 normalises codewords of any length
        quantizer.codebooks.mul_(torch.rand(M, K, 1) + 0.5)
    z = embeddings(11)
    p, z_hat, codes = by_loops(z.double().numpy(), quantizer.codebooks.detach().double().numpy(), 7.0)
    soft, reconstructed = quantizer(z)
    np.testing.assert_allclose(soft.detach(), p, atol=1e-6)
    np.testing.assert_allclose(reconstructed.detach(), z_hat, atol=1e-6)
    assert quantizer.encode(z).dtype == torch.uint8
    np.testing.assert_array_equal(quantizer.encode(z), codes)


def test_decode_of_hard_codes_is_that_of_one_hot_codes(quantizer: SoftProductQuantizer) -> None:
    codes = quantizer.encode(embeddings(9))
    one_hot = torch.nn.functional.one_hot(codes.long(), K)
    torch.testing.assert_close(quantizer.decode(codes), quantizer.decode(one_hot))


@pytest.mark.parametrize("codebook_size", [16, 256])
def test_faiss_codes_and_scores(codebook_size: int) -> None:
    torch.manual_seed(3)
    quantizer = SoftProductQuantizer(D, M, codebook_size)
    xb, xq = embeddings(500), embeddings(7, seed=2)
    codes = quantizer.encode(xb).numpy()
    codebooks = quantizer.codebooks.detach().numpy()
    index = build_index(codebooks, codes[:1])
    index.add(xb.numpy())  # FAISS chooses the codes of raw embeddings
    bits = codebook_size.bit_length() - 1
    packed = index.sa_encode(xb.numpy())
    if bits == 8:
        np.testing.assert_array_equal(packed, codes)
    scores, ids = index.search(quantizer.segments(xq).flatten(1).detach().numpy(), 501)
    all_codes = np.concatenate([codes[:1], codes])
    for q in range(len(xq)):
        for score, i in zip(scores[q], ids[q], strict=True):
            aqs = sum(  # Eq. 16
                unit(xq[q, m * d : (m + 1) * d].double().numpy()) @ codebooks[m, all_codes[i, m]].astype(float)
                for m in range(M)
            )
            assert abs(score - aqs) < 2e-6


def test_half_precision_and_autocast_give_the_codes_of_float32(quantizer: SoftProductQuantizer) -> None:
    z = embeddings(400).bfloat16()
    p, z_hat = quantizer(z.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p16, z_hat16 = quantizer(z)
        codes = quantizer.encode(z)
    assert p16.dtype == z_hat16.dtype == torch.float32
    assert torch.equal(p16, p) and torch.equal(z_hat16, z_hat)
    assert torch.equal(codes, quantizer.encode(z.float()))


def test_embeddings_that_are_not_contiguous(quantizer: SoftProductQuantizer) -> None:
    z = embeddings(8)
    assert torch.equal(quantizer.encode(z.T.contiguous().T), quantizer.encode(z))


def test_codewords_start_and_stay_on_the_unit_sphere(quantizer: SoftProductQuantizer) -> None:
    torch.testing.assert_close(quantizer.codebooks.norm(dim=-1), torch.ones(M, K))
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=10.0)
    for _ in range(3):
        quantizer(embeddings(6))[1].square().sum().backward()
        optimizer.step()
        assert (quantizer.codebooks.norm(dim=-1) - 1).abs().max() > 1e-3
        quantizer.renormalize_()
        torch.testing.assert_close(quantizer.codebooks.norm(dim=-1), torch.ones(M, K))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((10, 3), "not divisible"), ((0, 1), "not divisible"), ((8, 0), "not divisible"), ((8, 2, 1), "2 to 256"),
     ((8, 2, 257), "2 to 256"), ((8, 2, 16, 0.0), "alpha"), ((8, 2, 16, float("nan")), "alpha")],
)  # fmt: skip
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftProductQuantizer(*arguments)


@pytest.mark.parametrize("bad", [torch.zeros(2, D + 1), torch.zeros(D), torch.zeros(2, M, d)])
def test_refuses_embeddings_of_another_shape(quantizer: SoftProductQuantizer, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"\(b, {D}\)"):
        quantizer.encode(bad)


@pytest.mark.parametrize("bad", [torch.zeros(2, M), torch.zeros(2, M + 1, dtype=torch.int64), torch.zeros(2, M, K + 1)])
def test_refuses_codes_of_another_shape(quantizer: SoftProductQuantizer, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected soft codes"):
        quantizer.decode(bad)


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0.1, 100), st.floats(1e-3, 1e3))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_codes_of_any_embeddings(n: int, seed: int, alpha: float, length: float) -> None:
    torch.manual_seed(seed)
    quantizer = SoftProductQuantizer(D, M, K, alpha=alpha).double()
    z = torch.randn(n, D, dtype=torch.float64)
    p, z_hat = quantizer(z)
    expected, reconstructed, codes = by_loops(z.numpy(), quantizer.codebooks.detach().numpy(), alpha)
    np.testing.assert_allclose(p.detach().numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(z_hat.detach().numpy(), reconstructed, atol=1e-9)
    np.testing.assert_array_equal(quantizer.encode(length * z), codes)  # Eq. 1: an embedding's length is no part of it
    hard = quantizer.decode(torch.from_numpy(codes))
    np.testing.assert_array_equal(quantizer.encode(hard), codes)  # codewords encode to themselves
