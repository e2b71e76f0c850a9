"""What a distilled embedding ranks like: which rows the targets give, and that the loss follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.pairs import Pair
from mecoq_faiss.training.smoothing import Smoothing
from mecoq_faiss.training.targets import Targets, targets_of


def test_rows_of_the_source_where_some_cannot_be_read() -> None:
    x = np.random.default_rng(0).normal(3, 2, (40, 6)).astype(np.float32)
    targets = Targets(x, np.array([0, 2, 5, *range(6, 43)]), "cpu")
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    np.testing.assert_allclose(targets.take(np.array([5, 0])), expected[[2, 0]], atol=1e-5)


def test_of_several_views_the_first() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float16)
    one, all_views = (Targets(features, np.arange(4), "cpu").take(np.arange(4)) for features in (x[:, 0], x))
    assert torch.equal(one, all_views)


def test_of_a_source_they_are_smoothed_where_neighbors_are_asked_for(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    source = open_source(tmp_path / "x.npy", "train")
    network = MeCoQ(ModelConfig(backbone="features", weights="none", feature_dim=6, hidden=8, D=8, M=2, nbits=4))
    readable = np.arange(3, 60)

    def of(neighbors: int, rows: np.ndarray | None = None) -> Targets:
        return targets_of(source, network, TrainConfig(preserve_neighbors=neighbors), "cpu", rows)

    rows = np.arange(60)
    plain, smoothed = of(0).take(rows), of(5).take(rows)
    np.testing.assert_array_equal(plain, Targets(x, rows, "cpu").take(rows))
    np.testing.assert_allclose(smoothed, Targets(Smoothing(x, 5).rows(0, 60), rows, "cpu").take(rows), atol=2e-3)
    assert 0.5 < (plain * smoothed).sum(dim=1).mean() < 0.99
    some = of(5, readable)
    assert np.array_equal(some.source_rows, readable)
    np.testing.assert_allclose(
        some.take(readable[4:9]),
        Targets(Smoothing(x[3:], 5).rows(0, 57), readable, "cpu").take(readable[4:9]), atol=2e-3,
    )  # fmt: skip


def test_the_term_is_smaller_where_ranks_agree() -> None:
    model = ModelConfig(backbone="features", weights="none", feature_dim=6, hidden=8, D=8, M=2, nbits=4)
    torch.manual_seed(0)
    network = MeCoQ(model)
    x = torch.randn(30, 6)
    rows = np.arange(30)
    with torch.no_grad():
        agrees = network.quantizer.segments(network.embed(x)).flatten(1).numpy()
    against = agrees[np.random.default_rng(0).permutation(30)]

    def term(features: np.ndarray) -> float:
        objective = Contrast(network, TrainConfig(preserve_weight=1.0), Targets(features, rows, "cpu"))
        return float(objective(Pair(x, x, rows), 1)[1]["distillation"])

    assert 0 < term(agrees) < 0.7 * term(against)
