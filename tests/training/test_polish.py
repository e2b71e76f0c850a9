"""Polishing: codewords move to their segments' directions, the embedding stays."""

from __future__ import annotations

import numpy as np
import torch

from mecoq_faiss.config import ModelConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.pairs import CachedPairs
from mecoq_faiss.training.polish import polish, segments_of_views, spherical_kmeans

CONFIG = ModelConfig(backbone="features", weights="none", feature_dim=10, hidden=12, D=8, M=2, nbits=4)


def made_up(n: int = 60) -> tuple[MeCoQ, CachedPairs]:
    torch.manual_seed(0)
    views = np.random.default_rng(0).normal(size=(n, 3, 10)).astype(np.float16)
    return MeCoQ(CONFIG), CachedPairs(views, 8, 0, "cpu")


def test_a_round_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    C = torch.nn.functional.normalize(torch.randn(2, 5, 3, generator=generator), dim=-1)
    segments = torch.nn.functional.normalize(torch.randn(7, 2, 3, generator=generator), dim=-1)
    expected = C.clone()
    for m in range(2):
        nearest = [max(range(5), key=lambda k: float(C[m, k] @ s)) for s in segments[:, m]]
        for k in range(5):
            own = [s for s, chosen in zip(segments[:, m], nearest, strict=True) if chosen == k]
            if own:
                expected[m, k] = sum(own) / torch.linalg.vector_norm(sum(own))  # type: ignore[arg-type,type-var]
    assert not torch.equal(expected, C)
    torch.testing.assert_close(spherical_kmeans(C, segments, 1), expected)
    torch.testing.assert_close(spherical_kmeans(C, segments, 2), spherical_kmeans(expected, segments, 1))


def test_codewords_come_to_the_views_and_nothing_else_changes() -> None:
    model, pairs = made_up()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    segments = segments_of_views(model, pairs)

    def error() -> float:
        q = model.quantizer
        z_hat = q.decode(q.encode(segments.flatten(1))).detach()
        return (z_hat - segments.flatten(1)).square().sum(dim=1).mean().item()

    unpolished = error()
    polish(model.train(), pairs, 10)
    assert error() < 0.7 * unpolished and model.training
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["quantizer.codebooks"]
    torch.testing.assert_close(model.quantizer.codebooks.norm(dim=-1), torch.ones(2, 16))


def test_the_same_views_at_each_call() -> None:
    model, pairs = made_up()
    segments = segments_of_views(model, pairs)
    assert segments.shape == (120, 2, 4)
    assert torch.equal(segments, segments_of_views(model, pairs))
