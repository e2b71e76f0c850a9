"""The loss terms against loops written from the paper in float64; Proposition 1."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mecoq_faiss.loss import code_entropy, codeword_diversity, debiased_contrastive_loss, ranking_distillation


def rows(n: int, D: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return a @ b / math.sqrt((a @ a) * (b @ b))


def by_loops(
    view1: np.ndarray, view2: np.ndarray, memory: np.ndarray, tau: float, rho: float, anchors: np.ndarray | None = None
) -> float:
    """Eq. 12 with Eq. 7 and 13, the mean over anchors, clamped once at count * exp(-1 / tau)."""
    N = len(view1)
    z = [*view1, *view2]
    x = z if anchors is None else anchors
    total = 0.0
    for q in range(2 * N):
        k_plus = q + N if q < N else q - N
        e_plus = math.exp(cosine(x[q], z[k_plus]) / tau)
        keys = [z[k] for k in range(2 * N) if k not in (q, k_plus)] + list(memory)
        negatives = sum(math.exp(cosine(x[q], key) / tau) / (1 - rho) - rho * e_plus / (1 - rho) for key in keys)
        negatives = max(negatives, len(keys) * math.exp(-1 / tau))
        total -= math.log(e_plus / (e_plus + negatives))
    return total / (2 * N)


@pytest.mark.parametrize("N", [1, 2, 5, 16])
@pytest.mark.parametrize("slots", [0, 1, 7])
@pytest.mark.parametrize(("tau", "rho"), [(0.5, 0.0), (0.5, 0.15), (0.2, 0.1), (0.4, 0.9)])
def test_equations(N: int, slots: int, tau: float, rho: float) -> None:
    view1, view2, memory = rows(N), rows(N, seed=1), rows(slots, seed=2)
    loss = debiased_contrastive_loss(view1, view2, memory, temperature=tau, positive_prior=rho)
    assert loss.item() == pytest.approx(by_loops(view1.numpy(), view2.numpy(), memory.numpy(), tau, rho), rel=1e-10)
    if slots == 0:
        assert debiased_contrastive_loss(view1, view2, temperature=tau, positive_prior=rho) == loss


@pytest.mark.parametrize("slots", [0, 7])
@pytest.mark.parametrize(("tau", "rho"), [(0.5, 0.15), (0.4, 0.9)])
def test_anchors_are_compared_with_the_views(slots: int, tau: float, rho: float) -> None:
    view1, view2, memory, z1, z2 = rows(5), rows(5, seed=1), rows(slots, seed=2), rows(5, seed=3), rows(5, seed=4)
    loss = debiased_contrastive_loss(view1, view2, memory, anchors=(z1, z2), temperature=tau, positive_prior=rho)
    anchors = torch.cat([z1, z2]).numpy()
    expected = by_loops(view1.numpy(), view2.numpy(), memory.numpy(), tau, rho, anchors)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match=r"anchors need the shape of the views, \(5, 6\); got \(4, 6\)"):
        debiased_contrastive_loss(view1, view2, anchors=(z1[:4], z2[:4]), temperature=tau, positive_prior=rho)


@pytest.mark.parametrize("by_embeddings", [False, True])
def test_parts_of_slices_of_images_sum_up_to_the_whole(by_embeddings: bool) -> None:
    view1, view2, memory, z1, z2 = (rows(7, seed=seed) for seed in range(5))
    given: dict[str, Any] = {"temperature": 0.4, "positive_prior": 0.15}
    whole = debiased_contrastive_loss(view1, view2, memory, anchors=(z1, z2) if by_embeddings else None, **given)
    parts = [
        debiased_contrastive_loss(
            view1, view2, memory, anchors=(z1[own], z2[own]) if by_embeddings else None, images=own, **given
        )
        for own in (slice(0, 3), slice(3, 3), slice(3, 4), slice(4, 7))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)
    assert parts[1] == 0 and all(part != whole for part in parts)


def test_the_clamp_is_reached() -> None:
    view = rows(4) * 0 + torch.eye(4, 6, dtype=torch.float64)  # positives at 1, all negatives at 0
    expected = math.log((math.exp(2) + 6 * math.exp(-2)) / math.exp(2))
    loss = debiased_contrastive_loss(view, view, temperature=0.5, positive_prior=0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_without_debiasing_it_is_cross_entropy() -> None:
    view1, view2, memory, N = rows(5), rows(5, seed=1), rows(3, seed=2), 5
    z = torch.nn.functional.normalize(torch.cat([view1, view2, memory]), dim=1)
    logits = (z[: 2 * N] @ z.T / 0.3).masked_fill(torch.eye(2 * N, 2 * N + 3, dtype=torch.bool), -torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, (torch.arange(2 * N) + N) % (2 * N))
    loss = debiased_contrastive_loss(view1, view2, memory, temperature=0.3, positive_prior=0.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("slots", [0, 4])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_gradient(slots: int, rho: float) -> None:
    inputs = [x.requires_grad_() for x in (rows(3), rows(3, seed=1), rows(slots, seed=2))]
    assert torch.autograd.gradcheck(
        lambda a, b, m: debiased_contrastive_loss(a, b, m, temperature=0.5, positive_prior=rho), inputs
    )


@pytest.mark.parametrize("tau", [0.01, 0.001])
def test_no_overflow_at_low_temperatures(tau: float) -> None:
    view1, view2 = (rows(8, seed=s).float().requires_grad_() for s in (0, 1))
    loss = debiased_contrastive_loss(view1, view2, rows(5, seed=2).float(), temperature=tau, positive_prior=0.1)
    loss.backward()
    exact = debiased_contrastive_loss(
        view1.detach().double(),
        view2.detach().double(),
        rows(5, seed=2).float().double(),
        temperature=tau,
        positive_prior=0.1,
    )
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    assert all(v.grad is not None and v.grad.isfinite().all() for v in (view1, view2))
    same = view1.detach()
    loss = debiased_contrastive_loss(same, -same, temperature=tau, positive_prior=0.1)  # the worst positives
    assert loss.isfinite()


def test_bfloat16_and_autocast_compute_in_float32() -> None:
    view1, view2, memory = (x.bfloat16() for x in (rows(6), rows(6, seed=1), rows(4, seed=2)))
    exact = debiased_contrastive_loss(
        view1.double(), view2.double(), memory.double(), temperature=0.2, positive_prior=0.1
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = debiased_contrastive_loss(view1, view2, memory, temperature=0.2, positive_prior=0.1)
        of_float = debiased_contrastive_loss(
            view1.float(), view2.float(), memory.float(), temperature=0.2, positive_prior=0.1
        )
    assert loss.dtype == torch.float32 and loss == of_float
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_one_image_without_memory_has_nothing_to_learn() -> None:
    view1, view2 = rows(1).requires_grad_(), rows(1, seed=1)
    loss = debiased_contrastive_loss(view1, view2, temperature=0.5, positive_prior=0.1)
    loss.backward()
    assert loss == 0 and view1.grad is not None and not view1.grad.any()


@pytest.mark.parametrize(
    ("views", "memory", "settings", "message"),
    [
        (((3, 4), (2, 4)), None, {}, "one shape"),
        (((0, 4), (0, 4)), None, {}, "one shape"),
        (((4,), (4,)), None, {}, "one shape"),
        (((3, 4), (3, 4)), (2, 5), {}, "memory of shape"),
        (((3, 4), (3, 4)), None, {"temperature": 0.0}, "temperature=0.0"),
        (((3, 4), (3, 4)), None, {"temperature": math.nan}, "temperature=nan"),
        (((3, 4), (3, 4)), None, {"positive_prior": 1.0}, "positive_prior=1.0"),
        (((3, 4), (3, 4)), None, {"positive_prior": -0.1}, "positive_prior=-0.1"),
    ],
)
def test_refuses(views: tuple, memory: tuple | None, settings: dict, message: str) -> None:
    given = None if memory is None else torch.ones(memory)
    with pytest.raises(ValueError, match=message):
        debiased_contrastive_loss(
            torch.ones(views[0]),
            torch.ones(views[1]),
            given,
            **({"temperature": 0.5, "positive_prior": 0.1} | settings),
        )


@pytest.mark.parametrize("seed", range(5))
def test_proposition_1(seed: int) -> None:
    """One query's contrastive loss: the positive's gradient is longer than any negative's (Eq. 10, 32).

    In fact, it is as long as all of theirs together (Eq. 29).
    """
    keys, tau = rows(9, seed=seed).requires_grad_(), 0.3
    query, positive, *negatives = keys
    scores = torch.stack([query @ key / tau for key in (positive, *negatives)])
    loss = -(scores[0] - torch.logsumexp(scores, 0))  # Eq. 9
    grads = torch.autograd.grad(loss, [positive, *negatives])
    norms = torch.stack([g.norm() for g in grads])
    assert norms[0] > norms[1:].max() and norms[1:].min() > 0
    torch.testing.assert_close(norms[0], norms[1:].sum())


@pytest.mark.parametrize("seed", range(5))
def test_proposition_1_holds_for_the_scores_of_our_loss(seed: int) -> None:
    """With rho = 0: per anchor, |dL/ds+| is the sum of the |dL/ds-|, seen through orthogonal directions of the keys."""
    N, D = 4, 12
    z = torch.nn.functional.normalize(rows(2 * N, D, seed), dim=1).requires_grad_()
    memory = torch.nn.functional.normalize(rows(3, D, seed + 50), dim=1).requires_grad_()
    loss = debiased_contrastive_loss(z[:N], z[N:], memory, temperature=0.3, positive_prior=0.0)
    similarity = (z.detach() @ torch.cat([z, memory]).detach().T / 0.3).fill_diagonal_(-torch.inf)
    P = torch.softmax(similarity, dim=1)  # Eq. 22
    slopes = P.clone()  # Eq. 21, times tau
    for q in range(2 * N):
        slopes[q, (q + N) % (2 * N)] -= 1
    (grad,) = torch.autograd.grad(loss, memory)
    expected = slopes[:, 2 * N :].T @ z.detach() / 0.3 / (2 * N)  # Eq. 24-26
    expected -= (expected * memory.detach()).sum(1, keepdim=True) * memory.detach()  # cosine: only across the key
    torch.testing.assert_close(grad, expected)
    for q in range(2 * N):
        positive = (q + N) % (2 * N)
        others = [k for k in range(2 * N + 3) if k not in (q, positive)]
        assert slopes[q, positive].abs() > slopes[q, others].max() > 0


def test_codeword_diversity_is_the_triple_loop() -> None:
    M, K, d = 2, 5, 3
    C = rows(M * K, d).view(M, K, d)
    total = 0.0
    for m in range(M):
        for i in range(K):
            for j in range(K):
                total += cosine(C[m, i].numpy(), C[m, j].numpy())
    assert codeword_diversity(C).item() == pytest.approx(total / (M * K**2), rel=1e-12)
    assert codeword_diversity(torch.ones(2, 4, 3)).item() == pytest.approx(1)
    assert codeword_diversity(torch.stack([torch.eye(2), -torch.eye(2)], 1).view(1, 4, 2)).item() == pytest.approx(0)
    with pytest.raises(ValueError, match="codebooks of shape"):
        codeword_diversity(torch.ones(4, 3))


def test_code_entropy() -> None:
    p = torch.softmax(rows(12, 4).view(3, 4, 4), dim=-1)
    expected = np.mean([-sum(x * math.log(x) for x in row) for row in p.flatten(0, 1).numpy()])
    assert code_entropy(p).item() == pytest.approx(expected, rel=1e-12)
    assert code_entropy(torch.full((2, 3, 16), 1 / 16)).item() == pytest.approx(math.log(16))


def test_code_entropy_of_certain_codes_has_a_gradient() -> None:
    logits = torch.tensor([[[0.0, 200.0, 0.0]]], requires_grad=True)  # two probabilities underflow to 0
    entropy = code_entropy(torch.softmax(logits, dim=-1))
    entropy.backward()
    assert entropy.item() == pytest.approx(0) and logits.grad is not None and logits.grad.isfinite().all()


@given(
    st.integers(1, 6), st.integers(0, 5), st.floats(0.05, 5), st.floats(0, 0.95), st.integers(0, 10**6), st.randoms()
)
@settings(max_examples=50, derandomize=True, deadline=None)
def test_the_loss_of_any_batch(N: int, slots: int, tau: float, rho: float, seed: int, random: Random) -> None:
    view1, view2, memory = rows(N, seed=seed), rows(N, seed=seed + 1), rows(slots, seed=seed + 2)

    def loss(a: torch.Tensor, b: torch.Tensor, m: torch.Tensor) -> float:
        return debiased_contrastive_loss(a, b, m, temperature=tau, positive_prior=rho).item()

    value = loss(view1, view2, memory)
    assert value == pytest.approx(by_loops(view1.numpy(), view2.numpy(), memory.numpy(), tau, rho), rel=1e-7, abs=1e-9)
    order = random.sample(range(N), N)
    for same in (loss(view2, view1, memory), loss(view1[order], view2[order], memory), loss(3 * view1, view2, memory)):
        assert same == pytest.approx(value, rel=1e-9, abs=1e-12)


@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_diversity_and_entropy_of_any_codebooks(M: int, K: int, d: int, seed: int) -> None:
    C = rows(M * K, d, seed).view(M, K, d)
    pairs = [cosine(a.numpy(), b.numpy()) for codebook in C for a in codebook for b in codebook]
    assert codeword_diversity(C).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
    p = torch.softmax(5 * rows(M, K, seed), dim=-1)[None]
    expected = -sum(float(q) * math.log(q) for q in p.flatten()) / M
    assert code_entropy(p).item() == pytest.approx(expected, abs=1e-9)
    assert -1e-12 <= code_entropy(p).item() <= math.log(K) + 1e-12


def test_distillation_is_the_divergence_of_the_softmaxes_over_what_is_not_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    exact, coded = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    left_out = torch.eye(3, 5, dtype=torch.bool)
    found = ranking_distillation(exact, coded, left_out, temperature=0.5, coded_temperature=2.0)
    expected = []
    for i in range(3):
        kept = [j for j in range(5) if j != i]
        p, q = torch.softmax(exact[i, kept] / 0.5, 0), torch.softmax(coded[i, kept] / 2, 0)
        expected.append((p * (p / q).log()).sum())
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert float(ranking_distillation(exact, exact, left_out, temperature=0.5)) < 1e-12
