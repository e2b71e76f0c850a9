"""Additive codebooks for an embedding that is learned: residual k-means, least squares, then distilled rankings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.additive import beam_search, sums
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.pairs import Pairs
from mecoq_faiss.training.polish import segments_of_views

TRAINING_BEAM = 4  # codes come often, and need not be the best
KMEANS_ROUNDS, LEAST_SQUARES_ROUNDS = 10, 4
RIDGE = 1e-2  # items by which a codeword is held where it is
STEPS, STEPS_A_CODING = 400, 100  # of distillation
QUERIES, KEYS = 256, 2048  # a step
RATE, TEMPERATURE = 1e-3, 0.1


@torch.no_grad()
def fit_additive(model: MeCoQ, pairs: Pairs, seed: int) -> None:
    """Fit the additive codebooks of a model to training views, in place; its mode and the random state stay.

    At most 20,000 views are looked at.
    """
    assert model.additive is not None
    was_training = model.training
    model.eval()
    z = F.normalize(segments_of_views(model, pairs).flatten(1), dim=1)
    model.additive.set_codebooks(fitted_codebooks(z, model.config.M, model.config.K, seed))
    model.train(was_training)


def fitted_codebooks(z: Tensor, M: int, K: int, seed: int) -> Tensor:
    """Codebooks (M, K, D) for z (n, D), rows of norm 1."""
    generator = torch.Generator().manual_seed(seed)
    codebooks = residual_codebooks(z, M, K, generator)
    for _ in range(LEAST_SQUARES_ROUNDS):
        codebooks = least_squares(codebooks, beam_search(codebooks, z, TRAINING_BEAM), z)
    return distilled(codebooks, z, generator)


@torch.no_grad()
def residual_codebooks(z: Tensor, M: int, K: int, generator: torch.Generator) -> Tensor:
    """Codebooks (M, K, D), each by k-means of what those before leave of z (n, D)."""
    residual, found = z, []
    for _ in range(M):
        rows = torch.randperm(len(z), generator=generator)[torch.arange(K) % len(z)]
        C = residual[rows.to(z.device)]
        for _ in range(KMEANS_ROUNDS):
            nearest = (C.square().sum(dim=1) - 2 * residual @ C.T).argmin(dim=1)
            counts = torch.bincount(nearest, minlength=K)[:, None]
            means = torch.zeros_like(C).index_add_(0, nearest, residual) / counts.clamp_min(1)
            C = torch.where(counts > 0, means, C)
        found.append(C)
        residual = residual - C[(C.square().sum(dim=1) - 2 * residual @ C.T).argmin(dim=1)]
    return torch.stack(found)


@torch.no_grad()
def least_squares(codebooks: Tensor, codes: Tensor, z: Tensor) -> Tensor:
    """The codebooks whose sums at codes (n, M) are nearest to z (n, D), held lightly where they are."""
    M, K, D = codebooks.shape
    rows = codes.long() + K * torch.arange(M, device=codes.device)  # (n, M)
    together = torch.zeros(M * K, M * K, dtype=torch.float64, device=z.device)
    for m in range(M):
        flat = (rows[:, m, None] * (M * K) + rows).flatten()
        together += torch.bincount(flat, minlength=(M * K) ** 2).view(M * K, M * K)
    wanted = torch.zeros(M * K, D, dtype=torch.float64, device=z.device)
    left = (z - sums(codebooks, codes)).double()
    for m in range(M):
        wanted.index_add_(0, rows[:, m], left)
    together.diagonal().add_(RIDGE)
    return codebooks + torch.linalg.solve(together, wanted).view(M, K, D).to(codebooks.dtype)


@torch.enable_grad()
def distilled(codebooks: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
    """Codebooks whose coded inner products rank rows of z (n, D) as the exact ones do, from others (M, K, D).

    Each step draws queries and keys among the rows: the Kullback-Leibler divergence between the softmaxes of exact and
    of coded inner products, and the squared error of the keys' sums, go down. Codes are found anew every 100 steps.
    """
    C = codebooks.clone().requires_grad_()
    optimizer = torch.optim.Adam([C])
    for step in range(STEPS):
        if step % STEPS_A_CODING == 0:
            codes = beam_search(C.detach(), z, TRAINING_BEAM)
        queries, keys = (
            torch.randint(len(z), (size,), generator=generator).to(z.device) for size in (QUERIES, min(KEYS, len(z)))
        )
        own = queries[:, None] == keys
        decoded = sums(C, codes[keys])
        exact, coded = (
            F.log_softmax((z[queries] @ x.T).masked_fill(own, -2) / TEMPERATURE, dim=1) for x in (z[keys], decoded)
        )
        divergence = F.kl_div(coded, exact, log_target=True, reduction="batchmean")
        loss = divergence + (decoded - z[keys]).square().sum(dim=1).mean()
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return C.detach()
