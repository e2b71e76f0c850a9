"""Learned controls on clusters: k-means at its fixed point, the distillation's loss and gradients, both fits."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch

from benchmarks.paper import controls
from benchmarks.paper.experiment import default_settings
from mecoq_faiss.comparison.contenders import learned_contender
from mecoq_faiss.evaluation import recall_at_k


def clusters(n: int, F: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 5
    return (rng.normal(size=(5, F))[labels] + rng.normal(size=(n, F)) / 3).astype(np.float32), labels


def test_spherical_kmeans_ends_where_each_codeword_is_the_mean_direction_of_its_own() -> None:
    x, _ = clusters(300)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    C = controls.spherical_kmeans(x, 7, seed=0, rounds=100)
    nearest = (x @ C.T).argmax(1)
    assert set(nearest) == set(range(7))
    for k in range(7):
        mean = x[nearest == k].mean(0)
        np.testing.assert_allclose(C[k], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_lost_codeword_takes_another_place() -> None:
    x = np.repeat(np.eye(4, dtype=np.float32), [50, 2, 2, 2], axis=0)  # draws of 4 nearly always miss directions
    C = controls.spherical_kmeans(x, 4, seed=1)
    np.testing.assert_allclose((x @ C.T).max(1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="56 vectors for 57 codewords"):
        controls.spherical_kmeans(x, 57, seed=0)


def test_contrast_without_a_quantizer_gives_codes_that_find_clusters() -> None:
    x, labels = clusters(320)
    views = np.stack([x, x + 0.05, x - 0.05], axis=1)
    settings = default_settings(16, epochs=10, batch_size=64, hidden=16, D=8)
    model = controls.fit_unquantized(views, settings)
    np.testing.assert_allclose(model.quantizer.codebooks.detach().norm(dim=-1), 1, atol=1e-5)
    contender = learned_contender(model, x)
    _, I = contender.index.search(contender.queries(x), 10)
    assert (labels[I] == labels[:, None]).mean() > 0.9
    again = controls.fit_unquantized(views, settings)
    assert torch.equal(again.quantizer.codebooks, model.quantizer.codebooks)
    nowhere = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)  # features that know other neighbors
    taught = controls.fit_unquantized(views, settings | {"preserve_weight": 10.0}, nowhere)
    contender = learned_contender(taught, x)
    _, I = contender.index.search(contender.queries(x), 10)
    assert (labels[I] == labels[:, None]).mean() < 0.9


def test_distillation_is_the_divergence_of_two_softmaxes() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 6, dtype=torch.float64, generator=generator)
    p, q = (torch.softmax(x / 0.1, 1) for x in (a, b))
    want = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(controls.distillation_loss(a, b, 0.1), want)
    assert controls.distillation_loss(a, a, 0.1).item() == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def distilled() -> tuple[np.ndarray, Any, Any]:
    x, _ = clusters(1000)
    start, after = (controls.fit_distilled(x, 2, 0, {"width": 16, "epochs": epochs}) for epochs in (0, 15))
    return x, start, after


def test_it_starts_at_opq_and_learns_to_keep_neighbors(distilled: tuple[np.ndarray, Any, Any]) -> None:
    x, start, after = distilled
    D, _ = start.index(x).search(start.queries(x[:50]), 10)
    opq = faiss.deserialize_index(faiss.serialize_index(start.trained))
    opq.add(x)
    want_D, _ = opq.search(x[:50], 10)
    np.testing.assert_allclose(D, want_D, atol=1e-4)
    exact = start.exact(x).numpy()
    neighbors = np.argsort(-(exact @ exact.T), axis=1)[:, :10]
    recall = [recall_at_k(m.index(x).search(m.queries(x), 10)[1], neighbors, 10) for m in (start, after)]
    assert recall[1] > 1.05 * recall[0], recall


def test_codes_are_nearest_codewords_and_both_learn(distilled: tuple[np.ndarray, Any, Any]) -> None:
    x, start, _ = distilled
    y = start.exact(x[:40]) @ start.rotation.T
    coded = start.quantized(y)
    centroids, segments = start.codebooks.detach().numpy(), y.detach().numpy().reshape(40, 2, 8)
    nearest = ((segments[:, :, None] - centroids[None]) ** 2).sum(3).argmin(2)
    want = centroids[np.arange(2), nearest].reshape(40, 16)
    np.testing.assert_allclose(coded.detach().numpy(), want, atol=1e-5)
    gradients = torch.autograd.grad(coded.square().sum(), [start.rotation, start.codebooks])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    unused = np.setdiff1d(np.arange(256), nearest[:, 0])
    assert not gradients[1][0, unused].any(), "a codeword that nothing chose learns nothing"
