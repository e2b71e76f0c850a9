"""The heads since the paper (SPQ, HiHPQ, CroVCA): losses against loops, hyperbolic geometry, what training is worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.paper import hashing, quantizing

NEW = ("CroVCA head", *quantizing.METHODS)


def noisy(n: int, V: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views (n, V, 32), one more (n, 32), labels: 4 features tell 4 classes apart, 28 are noise, anew in each view."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    told = 2 * rng.normal(size=(4, 4))[labels][:, None] + 0.3 * rng.normal(size=(n, V + 1, 4))
    x = np.concatenate([told, 1.5 * rng.normal(size=(n, V + 1, 28))], axis=2).astype(np.float32)
    return x[:, :V], x[:, V], labels


def fit(method: str, views: np.ndarray, **settings: Any) -> Any:
    made = hashing.fit_hashing if method in hashing.METHODS else quantizing.fit_quantizing
    return made(method, views, 16, 0, {"batch_size": 60, **settings})


@pytest.mark.parametrize("method", NEW)
def test_training_teaches_what_the_views_share(method: str) -> None:
    views, x, labels = noisy(240)
    found = []
    for epochs in (0, 10):
        head = fit(method, views, epochs=epochs)
        _, I = head.index(x).search(head.queries(x), 10)
        found.append((labels[I] == labels[:, None]).mean())
    assert found[0] < 0.55 and found[1] > 0.75, found


@pytest.mark.parametrize("method", NEW)
def test_all_parameters_learn(method: str) -> None:
    views, _, _ = noisy(60)
    head = fit(method, views, epochs=0)
    head.train()
    head.loss(torch.from_numpy(views[:, 0]), torch.from_numpy(views[:, 1]), np.arange(60)).backward()
    for name, p in head.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_coding_rate_is_that_of_the_singular_values() -> None:
    u = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(u.numpy() / np.linalg.norm(u.numpy(), axis=1, keepdims=True), compute_uv=False)
    want = sum(math.log(1 + 4 / (9 * 0.05) * v**2) for v in values) / 2 * (4 + 9) / (4 * 9)
    assert hashing.coding_rate(u, 0.05).item() == pytest.approx(want)


def test_code_alignment_predicts_the_other_views_bits() -> None:
    a, b = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    terms = []
    for u, v in ((a, b), (b, a)):
        for i in range(5):
            for j in range(3):
                p = 1 / (1 + math.exp(-u[i, j]))
                terms.append(-math.log(p if v[i, j] > 0 else 1 - p))
    rates = (hashing.coding_rate(a, 0.1) + hashing.coding_rate(b, 0.1)).item() / 2
    assert hashing.code_alignment_loss(a, b, 0.3, 0.1).item() == pytest.approx(np.mean(terms) - 0.3 * rates)


def test_cross_quantized_loss_is_that_of_a_loop() -> None:
    z1, z2, q1, q2 = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    terms = []
    for a, b in ((z1, q2), (z2, q1)):
        x = F.normalize(torch.cat([a, b]), dim=1).double().numpy()
        for i in range(6):
            e = {j: math.exp(x[i] @ x[j] / 0.4) for j in range(6) if j != i}
            terms.append(-math.log(e[(i + 3) % 6] / sum(e.values())))
    loss = quantizing.cross_quantized_loss((z1, z2), (q1, q2), 0.4)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_spq_codes_softly_by_squared_distances() -> None:
    """alpha-softmax of inner products, as here, is softmax(-tau_q |z - c|^2), as there."""
    head = quantizing.SPQHead(32, 16, quantizing.default_settings("SPQ head"))
    z = F.normalize(torch.randn(7, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    C = head.quantizer.unit_codebooks()
    distance = (z[:, :, None] - C).square().sum(dim=-1)  # (b, M, K)
    torch.testing.assert_close(head.quantizer.soft_codes(z.flatten(1)), torch.softmax(-5.0 * distance, dim=-1))


def test_lifted_points_lie_on_their_hyperboloid_as_far_as_their_norm() -> None:
    curvature = torch.tensor([0.5, 2.0])
    v = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    x = quantizing.lift(v, curvature, most=1.0)
    torch.testing.assert_close(torch.einsum("iim->im", quantizing.minkowski(x, x)), (-1 / curvature).expand(4, 2))
    origin = quantizing.lift(torch.zeros(1, 2, 3), curvature, most=1.0)
    want = v.norm(dim=-1).clamp_max(1.0).sum(dim=1, keepdim=True)
    torch.testing.assert_close(quantizing.geodesic(x, origin, curvature), want, atol=1e-3, rtol=0)


def test_hihpq_scores_are_lorentzian_and_codes_the_nearest() -> None:
    views, x, _ = noisy(40)
    head = fit("HiHPQ head", views, epochs=2, warmup=0)
    D, I = head.index(x).search(head.queries(x[:5]), 40)
    with torch.inference_mode():
        points, C = (head.lift(v).numpy() for v in (head.tangent(torch.from_numpy(x)), head.codewords))
    signs = np.array([-1.0] + 15 * [1.0])
    products = np.einsum("nme,kme,e->nmk", points, C, signs)  # the nearest in squared distance has the largest
    codes = products.argmax(axis=2)
    for q in range(5):
        scores = products[q, np.arange(2), codes].sum(axis=1)
        np.testing.assert_allclose(D[q], scores[I[q]], rtol=1e-4)


def test_soft_codes_give_points_of_the_hyperboloid() -> None:
    head = quantizing.HiHPQHead(32, 16, quantizing.default_settings("HiHPQ head"))
    x = head.quantized(head.lift(torch.randn(6, 2, 15, generator=torch.Generator().manual_seed(0))))
    torch.testing.assert_close(
        torch.einsum("iim->im", quantizing.minkowski(x, x)), -torch.ones(6, 2), atol=1e-4, rtol=0
    )


def test_a_hierarchy_is_nested_and_knows_its_means(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, labels = noisy(90)
    x = x[:, :4]
    levels = quantizing.hierarchy(x, (12, 4))
    (fine, _), (coarse, means) = levels
    assert len(set(fine)) == 12 and len(set(coarse)) == 4
    assert all(len(set(coarse[fine == i])) == 1 for i in range(12))
    np.testing.assert_allclose(means, [x[coarse == i].mean(axis=0) for i in range(4)], rtol=1e-5)
    monkeypatch.setattr(quantizing, "CLUSTERED", 30)
    (by_a_part, _) = quantizing.hierarchy(x, (4,))[0]
    for found in (coarse, by_a_part):
        assert all(len(set(found[labels == label])) == 1 for label in range(4))


def test_neighbor_loss_asks_for_another_image_of_the_cluster() -> None:
    similarity = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = quantizing.neighbor_loss(similarity, torch.tensor([7, 3, 7, 5]))  # images 1 and 3 are alone
    terms = [
        -similarity[i, j] + math.log(sum(math.exp(similarity[i, other]) for other in range(4) if other != i))
        for i, j in ((0, 2), (2, 0))
    ]
    torch.testing.assert_close(loss, sum(terms) / 4)
    assert quantizing.neighbor_loss(similarity, torch.arange(4)) == 0


def test_unknown_quantizers_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of SPQ head, HiHPQ head"):
        quantizing.fit_quantizing("DPQ", np.zeros((4, 2, 3)), 16, 0)
