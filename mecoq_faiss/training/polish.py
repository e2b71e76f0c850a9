"""Codewords brought to the segments that they stand for, once training is over.

The loss sees soft codes, whose codewords need not lie among the segments; the index keeps hard ones. Spherical k-means,
started at the learned codewords, closes the gap and leaves the embedding as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.pairs import Pairs

MOST_VIEWS = 20_000  # training views that are looked at


@torch.inference_mode()
def polish(model: MeCoQ, pairs: Pairs, rounds: int) -> None:
    """Run some rounds of spherical k-means over the segments of training views, in place.

    The model is left in the mode in which it was.
    """
    was_training = model.training
    model.eval()
    codebooks = model.quantizer.unit_codebooks()
    model.quantizer.codebooks.copy_(spherical_kmeans(codebooks, segments_of_views(model, pairs), rounds))
    model.train(was_training)


def segments_of_views(model: MeCoQ, pairs: Pairs) -> Tensor:
    """Segments (n, M, d) of norm 1 of at most 20,000 training views, both of a pair, the same at each call."""
    found: list[Tensor] = []
    for pair in pairs.batches(epoch=0):
        found += [model.quantizer.segments(model.embed(view)) for view in (pair.view1, pair.view2)]
        if sum(map(len, found)) >= MOST_VIEWS:
            break
    return torch.cat(found)[:MOST_VIEWS]


def spherical_kmeans(codebooks: Tensor, segments: Tensor, rounds: int) -> Tensor:
    """Codebooks (M, K, d) of unit codewords after some rounds of spherical k-means over segments (n, M, d).

    Each segment goes to the codeword of largest inner product (Eq. 15), each codeword to the direction of its segments'
    sum; one without segments stays.
    """
    C, by_codebook = codebooks, segments.transpose(0, 1)  # (M, n, d)
    for _ in range(rounds):
        nearest = (by_codebook @ C.transpose(1, 2)).argmax(dim=-1)  # (M, n)
        sums = torch.zeros_like(C).scatter_add_(1, nearest[..., None].expand_as(by_codebook), by_codebook)
        norms = sums.norm(dim=-1, keepdim=True)
        C = torch.where(norms > 1e-6, F.normalize(sums, dim=-1), C)
    return C
