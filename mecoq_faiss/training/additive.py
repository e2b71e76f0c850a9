"""Additive codebooks for a learned embedding: FAISS's residual quantizer, then codes and least squares in turns.

Distilling the ranks of exact scores on top gained nothing on three collections: see docs/how-it-works.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.additive import beam_search, sums
from mecoq_faiss.index.residual import residual_codebooks
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.pairs import Pairs
from mecoq_faiss.training.polish import segments_of_views

TRAINING_BEAM = 4  # codes come often, and need not be the best
LEAST_SQUARES_ROUNDS = 4
RIDGE = 1e-2  # items by which a codeword is held where it is


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
    codebooks = torch.from_numpy(residual_codebooks(z.cpu().numpy(), M, K, seed)).to(z.device)
    for _ in range(LEAST_SQUARES_ROUNDS):
        codebooks = least_squares(codebooks, beam_search(codebooks, z, TRAINING_BEAM), z)
    return codebooks


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
