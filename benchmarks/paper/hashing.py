"""Three deep binary hashing methods as heads on the same frozen features, written from their papers' equations.

CIBHash: Z. Qiu et al., Unsupervised Hashing with Contrastive Information Bottleneck, IJCAI 2021.
Bi-half Net: Y. Li and J. van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021.
GreedyHash: S. Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS 2018.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mecoq_faiss.model import Standardize
from mecoq_faiss.training.pairs import CachedPairs

METHODS = ("CIBHash", "Bi-half Net", "GreedyHash")
HIDDEN = 1024  # CIBHash's hidden layer; the two others are linear


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
    N = len(logits1)
    codes = F.normalize(torch.cat([sample(logits1), sample(logits2)]), dim=1)  # (2N, B)
    similarity = codes @ codes.T / temperature
    similarity = similarity.masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    target = torch.cat([torch.arange(N, 2 * N), torch.arange(N)])
    divergence = (bernoulli_kl(logits1, logits2) + bernoulli_kl(logits2, logits1)) / 2
    return F.cross_entropy(similarity, target) + beta * divergence


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


class HashingHead(nn.Module):
    """Standardised features (b, F) -> logits (b, bits), whose signs are the code."""

    def __init__(self, method: str, feature_dim: int, bits: int, settings: dict[str, Any]) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
        self.method, self.settings = method, settings
        self.standardize = Standardize(feature_dim)
        if method == "CIBHash":
            self.net: nn.Module = nn.Sequential(nn.Linear(feature_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, bits))
        else:
            self.net = nn.Linear(feature_dim, bits)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.standardize(x))

    def loss(self, view1: Tensor, view2: Tensor) -> Tensor:
        s = self.settings
        if self.method == "CIBHash":
            logits1, logits2 = self(torch.cat([view1, view2])).chunk(2)
            return cibhash_loss(logits1, logits2, s["temperature"], s["beta"])
        x = self.standardize(view1)
        u = self.net(x)
        if self.method == "Bi-half Net":
            return similarity_loss(bi_half(u, s["gamma"]), x)
        b = sign(u)
        return similarity_loss(b, x) + s["penalty"] * (u - b).abs().pow(3).mean()

    @torch.inference_mode()
    def codes(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Packed codes (n, bits / 8) of features (n, F)."""
        parts = (torch.from_numpy(np.array(x[i : i + 4096], dtype=np.float32)) for i in range(0, len(x), 4096))
        return np.concatenate([np.packbits((self(part) > 0).numpy(), axis=1) for part in parts])

    def index(self, xb: NDArray[Any]) -> faiss.IndexBinaryFlat:
        """FAISS's binary index of features xb (n, F)."""
        codes = self.codes(xb)
        index = faiss.IndexBinaryFlat(8 * codes.shape[1])
        index.add(codes)
        return index


def default_settings(method: str) -> dict[str, Any]:
    """The papers' values, but for the batch (this method's in the paper); `tables` chooses the learning rate."""
    own = {
        "CIBHash": {"temperature": 0.3, "beta": 0.001},
        "Bi-half Net": {"gamma": 6.0},
        "GreedyHash": {"penalty": 0.1},
    }
    return {"lr": 1e-3, "batch_size": 128, "epochs": 60, **own[method]}


def fit_hashing(
    method: str, views: NDArray[Any], bits: int, seed: int, settings: dict[str, Any] | None = None
) -> HashingHead:
    """Train on views (n, V, F) with Adam; two views of an image for CIBHash, one for the others."""
    s = default_settings(method) | (settings or {})
    torch.manual_seed(seed)
    head = HashingHead(method, views.shape[-1], bits, s)
    head.standardize.fit(torch.from_numpy(np.asarray(views[:, 0], dtype=np.float32)))
    optimizer = torch.optim.Adam(head.parameters(), lr=s["lr"], fused=True)
    pairs = CachedPairs(views, s["batch_size"], seed, "cpu")
    for epoch in range(1, s["epochs"] + 1):
        for pair in pairs.batches(epoch):
            loss = head.loss(pair.view1, pair.view2)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return head.eval()
