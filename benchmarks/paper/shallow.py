"""The paper's three shallow hashing methods that FAISS does not have, written from their papers, for features (n, F).

SpeH: Y. Weiss, A. Torralba, R. Fergus, Spectral Hashing, NIPS 2008.
SH: R. Salakhutdinov and G. Hinton, Semantic Hashing, Int. J. of Approximate Reasoning, 2009.
SphH: J.-P. Heo et al., Spherical Hashing, CVPR 2012.

All are searched by Hamming distances in FAISS's binary index, SphH too, whose paper also has a distance of its own.
SH has one hidden layer below the code, and real-valued features with Gaussian noise in the place of word counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.paper.hashing import binary_index
from benchmarks.paper.heads import Array
from mecoq_faiss.baselines.chain import Chains, finite_features, transformed

Bits = Callable[[Array], NDArray[np.bool_]]  # features (n, F) -> (n, bits)


class ShallowHash:
    """A fitted method behind FAISS's transforms of features."""

    def __init__(self, transforms: list[Any], bits: Bits) -> None:
        self.transforms, self.bits = transforms, bits

    def queries(self, x: Array) -> NDArray[np.uint8]:
        """Packed codes (n, bits / 8) of features (n, F)."""
        return np.packbits(self.bits(transformed(self.transforms, finite_features(x))), axis=1)

    def index(self, xb: Array) -> faiss.IndexBinaryFlat:
        """FAISS's binary index of features xb (n, F)."""
        return binary_index(self.queries(xb))


def fit_shallow(method: str, xt: Array, bits: int, seed: int, settings: dict[str, Any] | None = None) -> ShallowHash:
    """Fit on features xt (n, F), `settings["preprocess"]` first (see `Baseline`)."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    s = default_settings(method) | (settings or {})
    transforms, x = Chains(xt).get(s["preprocess"])
    return ShallowHash(transforms, METHODS[method](x, bits, seed, s))


def default_settings(method: str) -> dict[str, Any]:
    """The papers' values where they give them; held-out images choose what is done to features first."""
    own: dict[str, dict[str, Any]] = {
        "SpeH": {},
        "SH": {"hidden": 512, "pretraining": 50, "epochs": 50, "batch_size": 100, "lr": 1e-2, "noise": 4.0},
        "SphH": {"rounds": 100, "mean_error": 0.1, "deviation": 0.15},
    }
    return {"preprocess": "standardised", **own[method]}


def spectral(x: Array, bits: int, seed: int, s: dict[str, Any]) -> Bits:
    """The signs of the `bits` smoothest eigenfunctions of a uniform distribution along the principal axes of x."""
    mean = x.mean(axis=0)
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    axes = axes[:bits].T  # (F, B)
    y = (x - mean) @ axes
    low, width = y.min(axis=0), np.maximum(np.ptp(y, axis=0), 1e-12)
    waves = np.pi * np.arange(1, bits + 1) / width[:, None]  # frequency j pi / (b - a) of mode j of each axis
    axis, mode = np.unravel_index(np.argsort(waves, axis=None, kind="stable")[:bits], waves.shape)
    frequency = waves[axis, mode]

    def encode(x: Array) -> NDArray[np.bool_]:
        return np.cos(frequency * ((x - mean) @ axes - low)[:, axis]) > 0

    return encode


def spherical(x: Array, bits: int, seed: int, s: dict[str, Any]) -> Bits:
    """One ball a bit, each holding half of x, any two a quarter: pivots attract and repel each other until they do."""
    rng = np.random.default_rng(seed)
    quarter = len(x) / 4
    pivots = np.stack([x[rng.choice(len(x), min(10, len(x)), replace=False)].mean(axis=0) for _ in range(bits)])
    off = ~np.eye(bits, dtype=bool)
    for _ in range(s["rounds"]):
        distance = _distances(x, pivots)
        inside = (distance <= np.median(distance, axis=0)).astype(np.float32)
        shared = inside.T @ inside  # (B, B)
        error, deviation = np.abs(shared[off] - quarter).mean(), shared[off].std()
        if error <= s["mean_error"] * quarter and deviation <= s["deviation"] * quarter:
            break
        push = np.where(off, (shared - quarter) / quarter / 2, 0)
        pivots = pivots + (push.sum(axis=1, keepdims=True) * pivots - push @ pivots) / bits
    radius = np.median(_distances(x, pivots), axis=0)
    return lambda x: _distances(x, pivots) <= radius


def _distances(x: Array, pivots: Array) -> Array:
    """Squared distances (n, B), float32."""
    D = np.square(x).sum(axis=1)[:, None] - 2 * x @ pivots.T + np.square(pivots).sum(axis=1)
    return D.astype(np.float32)


def semantic(x: Array, bits: int, seed: int, s: dict[str, Any]) -> Bits:
    """Two restricted Boltzmann machines, unrolled to an autoencoder; noise before its code makes that saturate."""
    torch.manual_seed(seed)
    v = torch.from_numpy(x)
    machines: list[tuple[Tensor, Tensor, Tensor]] = []
    h = v
    for width in (s["hidden"], bits):
        machines.append(_boltzmann(h, width, s, gaussian=not machines))
        W, hidden, _ = machines[-1]
        h = torch.sigmoid(h @ W + hidden)
    (W1, b1, c1), (W2, b2, c2) = machines
    layers = [nn.Parameter(p.clone()) for p in (W1, b1, W2, b2, W2.T, c2, W1.T, c1)]
    optimizer = torch.optim.Adam(layers, lr=s["lr"])

    def logits(x: Tensor) -> Tensor:
        return torch.sigmoid(x @ layers[0] + layers[1]) @ layers[2] + layers[3]

    for epoch in range(s["epochs"]):
        noise = s["noise"] * min(1, 2 * epoch / s["epochs"])
        for batch in v[torch.randperm(len(v))].split(s["batch_size"]):
            u = logits(batch)
            code = torch.sigmoid(u + noise * torch.randn_like(u))
            made = torch.sigmoid(code @ layers[4] + layers[5]) @ layers[6] + layers[7]
            loss = (made - batch).square().sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return lambda x: (logits(torch.from_numpy(x)) > 0).detach().numpy()


def _boltzmann(v: Tensor, width: int, s: dict[str, Any], *, gaussian: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (V, H) and biases of hidden and visible units by one step of contrastive divergence at a time."""
    W = 0.01 * torch.randn(v.shape[1], width)
    hidden, visible = torch.zeros(width), torch.zeros(v.shape[1])
    rate = s["lr"] if gaussian else 10 * s["lr"]
    for _ in range(s["pretraining"]):
        for batch in v[torch.randperm(len(v))].split(s["batch_size"]):
            p = torch.sigmoid(batch @ W + hidden)
            made = torch.bernoulli(p) @ W.T + visible
            made = made if gaussian else torch.sigmoid(made)
            again = torch.sigmoid(made @ W + hidden)
            W += rate * (batch.T @ p - made.T @ again) / len(batch)
            hidden += rate * (p - again).mean(dim=0)
            visible += rate * (batch - made).mean(dim=0)
    return W, hidden, visible


METHODS: dict[str, Callable[[Array, int, int, dict[str, Any]], Bits]] = {
    "SpeH": spectral,
    "SH": semantic,
    "SphH": spherical,
}
