"""Codes that preserve a metric: what they start from, that they learn, and whose ranks their scores are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss import ModelConfig, TrainConfig, load_encoder, train
from mecoq_faiss.index import build_index
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.presets import OBJECTIVES
from mecoq_faiss.training import neighbors
from mecoq_faiss.training.neighbors import NeighborPairs
from mecoq_faiss.training.preserve import Preserve, exact_scores, start_preserving

METRICS = ("cosine", "ip", "l2")
RECIPE = {
    name: value
    for name, value in OBJECTIVES["preserve"].items()
    if name not in ("metric", "codes", "projection", "standardize", "D")
}
N, F = 400, 12


def model_of(metric: str) -> ModelConfig:
    return ModelConfig(
        backbone="features", weights="none", feature_dim=F, D=12, M=2, nbits=4, projection="linear", codes="additive",
        metric=metric,
    )  # fmt: skip


@pytest.fixture
def x() -> np.ndarray:
    """Clusters about a mean that is not 0, of many norms."""
    rng = np.random.default_rng(0)
    centers = 2 + rng.normal(size=(30, F))
    return ((centers[rng.integers(30, size=N)] + 0.3 * rng.normal(size=(N, F))) * rng.uniform(1, 3, (N, 1))).astype(
        np.float32
    )


def recall(x: np.ndarray, model: MeCoQ, metric: str, k: int = 10, xq: np.ndarray | None = None) -> float:
    """The share of the k exactly nearest that are among the k best by codes; without queries each item is one."""
    given, items = torch.from_numpy(x if xq is None else xq), torch.from_numpy(x)
    with torch.no_grad():
        codes, queries = model.coder.encode(model.vectors(items)).numpy(), model.vectors(given).numpy()
    _, I = build_index(model.coder.index_codebooks().numpy(), codes, additive=True).search(queries, k)
    exact = exact_scores(given, items, metric).topk(k, dim=1).indices.numpy()
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(I, exact, strict=True)]))


def test_exact_scores_rank_as_the_metrics_do(x: np.ndarray) -> None:
    a, b = torch.from_numpy(x[:20]), torch.from_numpy(x)
    distances = torch.cdist(a, b)
    assert torch.equal(exact_scores(a, b, "l2").argmax(dim=1), distances.argmin(dim=1))
    torch.testing.assert_close(exact_scores(a, b, "cosine").diagonal(), torch.ones(20))
    torch.testing.assert_close(exact_scores(a, b, "ip"), a @ b.T)


@pytest.mark.parametrize("metric", METRICS)
def test_without_codes_the_start_has_the_exact_ranks(metric: str, x: np.ndarray) -> None:
    pairs, model = NeighborPairs(x, metric, 64, 0, "cpu"), MeCoQ(model_of(metric))
    start_preserving(model, pairs, seed=0)
    q = model.additive
    assert q is not None
    with torch.no_grad():
        queries = q.query(model.embed(torch.from_numpy(x)))
        scores = queries @ q.keys(queries).T
    exact = exact_scores(torch.from_numpy(x), torch.from_numpy(x), metric)
    same = (scores.topk(5, dim=1).indices == exact.topk(5, dim=1).indices).float().mean()
    assert same > (0.99 if metric != "l2" else 0.8)  # of l2 one coordinate of 12 is given up


@pytest.mark.parametrize("metric", METRICS)
def test_training_finds_more_neighbors_than_the_start_and_exports(metric: str, x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    config = TrainConfig(**RECIPE | {"epochs": 4, "batch_size": 50})  # type: ignore[arg-type]
    torch.manual_seed(0)
    start = MeCoQ(model_of(metric))
    start_preserving(start, NeighborPairs(x, metric, 50, 0, "cpu"), seed=0)
    model = train(tmp_path / "x.npy", tmp_path / "run", model_of(metric), config)
    assert recall(x, model, metric) > recall(x, start, metric) + 0.01
    loaded = load_encoder(tmp_path / "run")
    vectors = loaded.encode(x, for_database=True)
    index = build_index(loaded.codebooks, loaded.codes(loaded.encode(x)), additive=True)
    np.testing.assert_allclose(index.reconstruct_n(0, N), vectors, atol=1e-6)


def test_a_sample_of_the_queries_helps_to_find_what_is_near_to_such(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "FEWEST_STEPS", 1)  # both as often
    rng = np.random.default_rng(5)
    queries = (-1 + rng.normal(size=(300, F)) * np.geomspace(3, 0.1, F)).astype(np.float32)  # another kind of vectors
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", queries[:200])
    config = TrainConfig(**RECIPE | {"epochs": 150, "batch_size": 50})  # type: ignore[arg-type]
    with_them = train(tmp_path / "x.npy", tmp_path / "a", model_of("cosine"), config, queries_sample=tmp_path / "q.npy")
    without = train(tmp_path / "x.npy", tmp_path / "b", model_of("cosine"), config)
    unseen = queries[200:]
    assert recall(x, with_them, "cosine", xq=unseen) > recall(x, without, "cosine", xq=unseen) + 0.02
    with pytest.raises(ValueError, match="another sample of queries"):
        train(tmp_path / "x.npy", tmp_path / "a", model_of("cosine"), config, resume=True)


def test_a_sample_of_queries_that_does_not_fit(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", x[:, :5])
    semantic = ModelConfig(D=8, M=2, nbits=4, hidden=8)
    for model, reason in ((model_of("ip"), "width 5"), (semantic, "--objective preserve")):
        with pytest.raises(ValueError, match=reason):
            train(tmp_path / "x.npy", tmp_path / "run", model, TrainConfig(), queries_sample=tmp_path / "q.npy")
    assert not (tmp_path / "run").exists()


def test_a_query_and_itself_do_not_count(x: np.ndarray) -> None:
    pairs, model = NeighborPairs(x, "cosine", 8, 0, "cpu"), MeCoQ(model_of("cosine"))
    start_preserving(model, pairs, seed=0)
    objective = Preserve(model, TrainConfig())
    batch = next(iter(pairs.batches(1)))
    assert (batch.same.sum(dim=1) == 1).all() and torch.equal(batch.view2[batch.same.long().argmax(dim=1)], batch.view1)
    assert objective(batch, 1)[1]["distillation"] > 0
    nothing_counts = batch._replace(same=torch.ones_like(batch.same))
    assert objective(nothing_counts, 1)[1]["distillation"] == 0
