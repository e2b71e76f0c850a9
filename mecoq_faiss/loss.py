"""The objectives' terms: debiased contrastive loss, distillation of ranks, codeword diversity, code entropy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def debiased_contrastive_loss(
    view1: Tensor,
    view2: Tensor,
    memory: Tensor | None = None,
    *,
    anchors: tuple[Tensor, Tensor] | None = None,
    images: slice = slice(None),
    temperature: float,
    positive_prior: float,
) -> Tensor:
    """Memory-augmented debiased contrastive loss (Eq. 6, 7, 12, 13), the mean over the 2N anchors.

    Similarities are cosines. Each of the 2N - 2 in-batch keys and N_M memory keys adds
    (exp(s/tau) - rho * exp(s+/tau)) / (1 - rho) to the negative term, which is clamped from below at its
    smallest possible value, count * exp(-1/tau) (Chuang et al. 2020). Computed in float32 (float64 inputs stay
    float64), relative to the row's largest similarity, so that no temperature overflows.

    Args:
        view1: reconstructions (N, D) of the first views, row i from image i.
        view2: reconstructions (N, D) of the second views, in the same order.
        memory: additional negatives (N_M, D), or None.
        anchors: what is compared with the views instead of themselves, for both views (N, D) in the same order: their
            embeddings, as an index compares queries with reconstructions. Not in the paper.
        images: score the anchors of these only, n of the N, and return their part of the mean: the parts of slices that
            make up the batch sum up to the whole. `anchors` then are (n, D).
        temperature: tau > 0.
        positive_prior: rho+ in [0, 1); 0 is the plain contrastive loss.

    Returns:
        A scalar.

    Raises:
        ValueError: on shapes that do not match or arguments out of range.
    """
    if view1.ndim != 2 or view1.shape != view2.shape or len(view1) == 0:
        raise ValueError(f"the views need one shape (N, D), N >= 1; got {tuple(view1.shape)} and {tuple(view2.shape)}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature} must be a positive number")
    if not 0 <= positive_prior < 1:
        raise ValueError(f"positive_prior={positive_prior} must lie in [0, 1)")
    scored = view1[images].shape
    if anchors is not None and not anchors[0].shape == anchors[1].shape == scored:
        raise ValueError(f"anchors need the shape of the views, {tuple(scored)}; got {tuple(anchors[0].shape)}")
    dtype = torch.float64 if view1.dtype == torch.float64 else torch.float32
    with torch.autocast(device_type=view1.device.type, enabled=False):
        N, D = view1.shape
        keys = F.normalize(torch.cat([view1, view2]).to(dtype), dim=1)  # (2N, D)
        n, own = scored[0], torch.arange(N, device=keys.device)[images]
        own = torch.cat([own, own + N])  # (2n,): the anchors' own keys, and those of their images' other views
        other = (own + N) % (2 * N)
        x = keys if n == N else keys[own]  # (2n, D)
        if anchors is not None:
            x = F.normalize(torch.cat(anchors).to(dtype), dim=1)
        logits = x @ keys.T / temperature  # (2n, 2N), s / tau of Eq. 6, cosines
        if anchors is None and n == N:  # (2n,): s(i, i + N) / tau, the same for both views
            positive = logits.diagonal(N).repeat(2)
        else:
            positive = logits.gather(1, other[:, None]).squeeze(1)
        anchor = torch.arange(2 * n, device=keys.device)
        is_negative = torch.ones_like(logits, dtype=torch.bool)
        is_negative[anchor, own] = False
        is_negative[anchor, other] = False
        logits = logits.masked_fill(~is_negative, -torch.inf)
        count = 2 * N - 2  # Eq. 7: the in-batch negatives
        if memory is not None and len(memory):
            if memory.ndim != 2 or memory.shape[1] != D:
                raise ValueError(f"expected memory of shape (N_M, {D}), got {tuple(memory.shape)}")
            # Eq. 13: memory slots as further negatives
            logits = torch.cat([logits, x @ F.normalize(memory.to(dtype), dim=1).T / temperature], dim=1)
            count += len(memory)
        if count == 0:
            return positive.sum() * 0.0  # one image, no memory: nothing to tell apart
        # all exponentials relative to the row's largest logit
        top = torch.maximum(logits.amax(dim=1), positive).detach()  # (2N,)
        exp_positive = torch.exp(positive - top)
        negatives = torch.exp(logits - top[:, None]).sum(dim=1)
        # Eq. 7, 13: what positives among the negatives add is taken off again
        negatives = (negatives - count * positive_prior * exp_positive) / (1 - positive_prior)
        negatives = torch.maximum(negatives, count * torch.exp(-1 / temperature - top))
        # Eq. 6, 12: -log(e+ / (e+ + negatives)), the mean where the paper sums
        return (torch.log(exp_positive + negatives) + top - positive).sum() / (2 * N)


def ranking_distillation(
    exact: Tensor,
    coded: Tensor,
    left_out: Tensor,
    *,
    temperature: float | Tensor,
    coded_temperature: float | None = None,
) -> Tensor:
    """How far coded scores rank keys otherwise than exact ones do: KL divergence of their softmaxes. Not in the paper.

    List-wise distillation, as LibVQ and Distill-VQ train the codes of text embeddings.

    Args:
        exact: scores of queries and keys (b, n), larger is nearer.
        coded: the same pairs' scores by codes.
        left_out: bool (b, n), pairs that do not count: a query and itself.
        temperature: of the exact scores' softmax, > 0; of each query its own, where it is a tensor (b, 1).
        coded_temperature: of the coded ones', > 0; by default the same.

    Returns:
        A scalar, the mean over queries, in nats.
    """
    dtype = torch.float64 if coded.dtype == torch.float64 else torch.float32
    far = -1e9  # finite: a share of 0 times it is 0
    softened = temperature if coded_temperature is None else coded_temperature
    wanted = (exact.to(dtype) / temperature).masked_fill(left_out, far).log_softmax(dim=1)
    found = (coded.to(dtype) / softened).masked_fill(left_out, far).log_softmax(dim=1)
    return (wanted.exp() * (wanted - found)).sum(dim=1).mean()


def codeword_diversity(codebooks: Tensor) -> Tensor:
    """Mean similarity of codewords within a codebook, Omega_C (Eq. 8), in [0, 1]; smaller is more diverse.

    codebooks (M, K, d), normalised here as in Eq. 1. The double sum over i, j is the squared norm of the sum.
    """
    if codebooks.ndim != 3:
        raise ValueError(f"expected codebooks of shape (M, K, d), got {tuple(codebooks.shape)}")
    C = F.normalize(codebooks, dim=-1)
    return C.mean(dim=1).square().sum(dim=-1).mean()


def code_entropy(p: Tensor) -> Tensor:
    """Mean entropy of soft codes p (b, M, K), in nats, in [0, log K]. Not in the paper; its release adds it."""
    p = p.clamp_min(torch.finfo(p.dtype).tiny)  # the slope at 0 is infinite
    return -(p * p.log()).sum(dim=-1).mean()
