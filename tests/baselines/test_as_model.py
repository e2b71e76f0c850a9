"""FAISS's PQ as a model: the same codes and scores as FAISS's own index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.baselines.as_model import kmeans_model
from mecoq_faiss.baselines.baseline import Baseline
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.index import build_index


def model(**changes: object) -> MeCoQ:
    torch.manual_seed(0)
    given = {"backbone": "features", "weights": "none", "feature_dim": 24, "hidden": 8, "D": 16, "M": 4, "nbits": 4}
    return MeCoQ(ModelConfig(**given | changes)).eval()  # type: ignore[arg-type]


def test_it_searches_as_faiss_does() -> None:
    x = (np.random.default_rng(0).normal(size=(400, 24)) + np.arange(24)).astype(np.float32)
    made = kmeans_model(model(), x, seed=3)
    encoder = TorchEncoder(made, "cpu")
    xq = encoder.encode(x[:7])
    index = build_index(encoder.codebooks, encoder.codes(encoder.encode(x)), "pq", additive=True)
    D, _ = index.search(xq, 400)
    n = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = (n - n.mean(0)) / n.std(0)
    z = (s / np.linalg.norm(s, axis=1, keepdims=True)).astype(np.float32)
    own = Baseline("PQ", 2, 4, "raw", "IP").fit(z, seed=3)
    truth, _ = own.search(own.index(z), z[:7], 400)
    np.testing.assert_allclose(D, truth, atol=2e-3)
    assert (made.config.M, made.config.D) == (4, 24)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="M=5"):
        kmeans_model(model(M=5, D=20), np.ones((50, 24), np.float32))
    with pytest.raises(ValueError, match="needs 16 training rows"):
        kmeans_model(model(), np.ones((9, 24), np.float32))
