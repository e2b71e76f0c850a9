"""How additive codebooks are fitted: each step against what it is to make less, and the model they end up in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mecoq_faiss import ModelConfig, TrainConfig, train
from mecoq_faiss.additive import beam_search, sums
from mecoq_faiss.index.residual import residual_codebooks
from mecoq_faiss.training import additive
from mecoq_faiss.training.additive import fitted_codebooks, least_squares
from mecoq_faiss.training.run_folder import RunFolder

M, K, D = 3, 8, 6


@pytest.fixture
def z() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(12, D, generator=generator)
    x = centers[torch.randint(12, (500,), generator=generator)] + 0.5 * torch.randn(500, D, generator=generator)
    return F.normalize(x, dim=1)


def start(z: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(residual_codebooks(z.numpy(), M, K, seed=0))


def error(codebooks: torch.Tensor, codes: torch.Tensor, z: torch.Tensor) -> float:
    return float((z - sums(codebooks, codes)).square().sum(dim=1).mean())


def test_least_squares_is_numpys(z: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "RIDGE", 1e-9)
    codes = beam_search(start(z), z)
    one_hot = F.one_hot(codes.long(), K).flatten(1).double().numpy()
    best = one_hot @ np.linalg.lstsq(one_hot, z.double().numpy(), rcond=None)[0]
    found = least_squares(start(z), codes, z)
    np.testing.assert_allclose(sums(found, codes), best, atol=1e-5)
    assert error(found, codes, z) < error(start(z), codes, z)


def test_a_training_ends_with_codebooks_the_same_each_time(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32))
    model = ModelConfig(M=2, D=8, nbits=4, hidden=8, codes="additive")
    first, second = (
        train(tmp_path / "x.npy", tmp_path / name, model, TrainConfig(epochs=2, batch_size=20)) for name in "ab"
    )
    assert first.additive is not None and second.additive is not None
    assert first.coder is first.additive and torch.equal(first.additive.codebooks, second.additive.codebooks)
    loaded = RunFolder(tmp_path / "a").load_trained()
    assert torch.equal(loaded.coder.index_codebooks(), first.additive.codebooks)


def test_fitted_codebooks_come_nearer_than_their_start(z: torch.Tensor) -> None:
    C = fitted_codebooks(z, M, K, seed=0)
    assert error(C, beam_search(C, z), z) < error(start(z), beam_search(start(z), z), z)
    assert fitted_codebooks(z[:5], 2, K, seed=0).isfinite().all()
