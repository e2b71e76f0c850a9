"""Four deep binary hashing methods as heads on the same frozen features, written from their papers' equations.

CIBHash: Z. Qiu et al., Unsupervised Hashing with Contrastive Information Bottleneck, IJCAI 2021.
Bi-half Net: Y. Li and J. van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021.
GreedyHash: S. Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS 2018.
CroVCA head: I. Moummad et al., Image Hashing via Cross-View Code Alignment in the Age of Foundation Models, 2025.

No backbone is fine-tuned (CroVCA's LoRA variant is left out, its probe is this), and Adam trains all at one rate.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.paper.heads import Head, contrast, mlp, parts

METHODS = ("CIBHash", "Bi-half Net", "GreedyHash", "CroVCA head")


class _StraightThrough(torch.autograd.Function):
    """forward: 1 where `positive`, else -1; backward: the gradient as it is, for `u`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, positive: Tensor) -> Tensor:
        return torch.where(positive, 1.0, -1.0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _BiHalf(torch.autograd.Function):
    """forward: in every column the larger half of the batch is 1, the rest -1; backward: g + gamma / numel (u - b)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: float) -> Tensor:
        ranks = u.argsort(dim=0, descending=True).argsort(dim=0)
        b = torch.where(ranks < len(u) // 2, 1.0, -1.0).to(u.dtype)
        ctx.save_for_backward(u, b)
        ctx.gamma = gamma
        return b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        u, b = ctx.saved_tensors
        return grads[0] + ctx.gamma * (u - b) / u.numel(), None


def sign(u: Tensor) -> Tensor:
    """-1 or 1, with the gradient of the identity."""
    return _StraightThrough.apply(u, u > 0)


def sample(logits: Tensor) -> Tensor:
    """Bits -1 or 1, drawn with the probabilities sigmoid(logits); the gradient is that of 2 sigmoid(logits) - 1."""
    p = torch.sigmoid(logits)
    return _StraightThrough.apply(2 * p - 1, torch.rand_like(p) < p)


def bi_half(u: Tensor, gamma: float) -> Tensor:
    """Bits -1 or 1, as many of the one as of the other in each column (of an even batch)."""
    return _BiHalf.apply(u, gamma)


def cibhash_loss(logits1: Tensor, logits2: Tensor, temperature: float, beta: float) -> Tensor:
    """Contrastive loss of sampled codes plus beta times the divergence of the views' Bernoulli distributions.

    Similarities are cosines, the other view's code is the positive; the divergence counts in both directions.
    """
    codes = F.normalize(torch.cat([sample(logits1), sample(logits2)]), dim=1)  # (2N, B)
    divergence = (bernoulli_kl(logits1, logits2) + bernoulli_kl(logits2, logits1)) / 2
    return contrast(codes @ codes.T / temperature) + beta * divergence


def bernoulli_kl(logits1: Tensor, logits2: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(logits1)) || Bernoulli(sigmoid(logits2))), summed over bits, the mean over the batch."""
    p = torch.sigmoid(logits1)
    ones = p * (F.logsigmoid(logits1) - F.logsigmoid(logits2))
    zeros = (1 - p) * (F.logsigmoid(-logits1) - F.logsigmoid(-logits2))
    return (ones + zeros).sum(dim=1).mean()


def similarity_loss(codes: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference of the codes' and the features' cosines, over all pairs of different items."""
    codes, features = F.normalize(codes, dim=1), F.normalize(features, dim=1)
    gap = codes @ codes.T - features @ features.T
    off = ~torch.eye(len(gap), dtype=torch.bool)
    return gap[off].square().mean()


def code_alignment_loss(logits1: Tensor, logits2: Tensor, weight: float, eps: float) -> Tensor:
    """Each view's bits predicted by the other's logits, less `weight` times the views' mean coding rate.

    The bits are targets: no gradient flows through them.
    """
    logits, other = torch.cat([logits1, logits2]), torch.cat([logits2, logits1]).detach()
    alignment = F.binary_cross_entropy_with_logits(logits, (other > 0).to(logits.dtype))
    return alignment - weight * (coding_rate(logits1, eps) + coding_rate(logits2, eps)) / 2


def coding_rate(u: Tensor, eps: float) -> Tensor:
    """Half the log-determinant of I + B / (N eps) Z'Z, Z the rows of u (N, B) at norm 1, times (B + N) / (B N)."""
    N, B = u.shape
    z = F.normalize(u, dim=1)
    return torch.logdet(torch.eye(B, dtype=u.dtype) + B / (N * eps) * z.T @ z) / 2 * (B + N) / (B * N)


class HashingHead(Head):
    """Standardised features (b, F) -> logits (b, bits), whose signs are the code."""

    def __init__(self, method: str, feature_dim: int, bits: int, settings: dict[str, Any]) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
        super().__init__(feature_dim, settings)
        self.method = method
        self.net: nn.Module
        if method == "CIBHash":
            self.net = mlp(feature_dim, bits)
        elif method == "CroVCA head":
            self.net = nn.Sequential(*mlp(feature_dim, bits), nn.BatchNorm1d(bits))
        else:
            self.net = nn.Linear(feature_dim, bits)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.standardize(x))

    def loss(self, view1: Tensor, view2: Tensor, rows: NDArray[Any]) -> Tensor:
        s = self.settings
        if self.method in ("CIBHash", "CroVCA head"):
            logits1, logits2 = self(torch.cat([view1, view2])).chunk(2)
            if self.method == "CIBHash":
                return cibhash_loss(logits1, logits2, s["temperature"], s["beta"])
            return code_alignment_loss(logits1, logits2, s["rate_weight"], s["eps"])
        x = self.standardize(view1)
        u = self.net(x)
        if self.method == "Bi-half Net":
            return similarity_loss(bi_half(u, s["gamma"]), x)
        b = sign(u)
        return similarity_loss(b, x) + s["penalty"] * (u - b).abs().pow(3).mean()

    @torch.inference_mode()
    def queries(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Packed codes (n, bits / 8) of features (n, F)."""
        return np.concatenate([np.packbits((self(part) > 0).numpy(), axis=1) for part in parts(x)])

    def index(self, xb: NDArray[Any]) -> faiss.IndexBinaryFlat:
        """FAISS's binary index of features xb (n, F)."""
        return binary_index(self.queries(xb))


def binary_index(codes: NDArray[np.uint8]) -> faiss.IndexBinaryFlat:
    """FAISS's index of packed codes (n, bits / 8)."""
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    return index


def default_settings(method: str) -> dict[str, Any]:
    """The papers' values, but for the batch (this method's in the paper); held-out images choose the learning rate."""
    own = {
        "CIBHash": {"temperature": 0.3, "beta": 0.001},
        "Bi-half Net": {"gamma": 6.0},
        "GreedyHash": {"penalty": 0.1},
        "CroVCA head": {"rate_weight": 0.1, "eps": 0.05},
    }
    return {"lr": 1e-3, "batch_size": 128, "epochs": 60, **own[method]}


def fit_hashing(
    method: str, views: NDArray[Any], bits: int, seed: int, settings: dict[str, Any] | None = None
) -> HashingHead:
    """Train on views (n, V, F): two views of an image for CIBHash and CroVCA, one for the others."""
    torch.manual_seed(seed)
    return HashingHead(method, views.shape[-1], bits, default_settings(method) | (settings or {})).fit(views, seed)
