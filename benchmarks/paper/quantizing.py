"""Two deep product quantizers since the paper as heads on the same frozen features, written from their papers.

SPQ head: Y. K. Jang and N. I. Cho, Self-supervised Product Quantization for Deep Unsupervised Image Retrieval, ICCV
2021. HiHPQ head: Z. Qiu et al., HiHPQ: Hierarchical Hyperbolic Product Quantization for Unsupervised Image Retrieval,
AAAI 2024.

Left out: no backbone is fine-tuned; in its place both have this method's hidden layer, and Adam at one rate trains what
HiHPQ trains by Riemannian SGD. HiHPQ's curvatures, codebook attention, contrast and prototypes are hyperbolic as in its
paper; but an index sums the segments' squared Lorentzian distances, which are inner products, where the paper sums
geodesic ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.paper.heads import Array, Head, contrast, mlp, parts
from mecoq_faiss.index import build_index
from mecoq_faiss.quantizer import SoftProductQuantizer

CLUSTERED = 5000  # rows that a hierarchy is made of: Ward's method takes the square of them in memory
CURVATURES = (0.01, 10.0)
ARCOSH_FROM = 1 + 1e-5  # its slope at 1 is infinite


def cross_quantized_loss(z: tuple[Tensor, Tensor], z_hat: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    """SPQ: one view's embeddings contrasted with the other's reconstructions, (N, D) each, by cosines; both ways."""
    total = torch.zeros(())
    for a, b in ((z[0], z_hat[1]), (z[1], z_hat[0])):
        x = F.normalize(torch.cat([a, b]), dim=1)
        total = total + contrast(x @ x.T / temperature) / 2
    return total


def lift(v: Tensor, curvature: Tensor, most: float) -> Tensor:
    """Tangent vectors at the origin (..., M, d), cut to norm `most` -> the hyperboloids (..., M, 1 + d), time first.

    The hyperboloid of a segment has curvature -`curvature` (M,): <x, x>_L = -1 / curvature.
    """
    root = curvature.sqrt()[:, None]
    norm = v.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    angle = root * norm.clamp_max(most)
    return torch.cat([angle.cosh(), angle.sinh() * v / norm], dim=-1) / root


def minkowski(x: Tensor, y: Tensor) -> Tensor:
    """Inner products <x, y>_L of points (b, M, 1 + d) and (n, M, 1 + d), segment by segment, (b, n, M)."""
    return torch.einsum("bme,nme->bnm", flipped(x), y)


def flipped(x: Tensor) -> Tensor:
    """Time with the other sign, so that the usual inner product is Minkowski's."""
    return torch.cat([-x[..., :1], x[..., 1:]], dim=-1)


def geodesic(x: Tensor, y: Tensor, curvature: Tensor) -> Tensor:
    """The segments' geodesic distances, summed: points (b, M, 1 + d) and (n, M, 1 + d) -> (b, n)."""
    return ((-curvature * minkowski(x, y)).clamp_min(ARCOSH_FROM).acosh() / curvature.sqrt()).sum(dim=-1)


class SPQHead(Head):
    """Cross-quantized contrast of embeddings and soft codes; segments and codewords of norm 1."""

    def __init__(self, feature_dim: int, bits: int, settings: dict[str, Any]) -> None:
        super().__init__(feature_dim, settings)
        M, nbits = bits // settings["nbits"], settings["nbits"]
        self.net = mlp(feature_dim, M * settings["d"])
        # softmax(-tau_q |z - c|^2) is softmax(2 tau_q <z, c>) of unit vectors
        self.quantizer = SoftProductQuantizer(M * settings["d"], M, 2**nbits, alpha=2 * settings["sharpness"])

    def loss(self, view1: Tensor, view2: Tensor, rows: Array) -> Tensor:
        z = self.quantizer.queries(self.net(self.standardize(torch.cat([view1, view2]))))
        _, z_hat = self.quantizer(z)
        (z1, z2), (q1, q2) = z.chunk(2), z_hat.chunk(2)
        return cross_quantized_loss((z1, z2), (q1, q2), self.settings["temperature"])

    def after_step(self) -> None:
        self.quantizer.renormalize_()

    @torch.inference_mode()
    def queries(self, x: Array) -> NDArray[np.float32]:
        """Segments of norm 1, (n, D)."""
        return np.concatenate([self.quantizer.queries(self.net(self.standardize(part))).numpy() for part in parts(x)])

    def index(self, xb: Array) -> Any:
        """FAISS's IndexPQ, or of 4-bit codes FastScan's."""
        codes = self.quantizer.encode(torch.from_numpy(self.queries(xb))).numpy()
        kind = "pqfs" if self.quantizer.K == 16 else "pq"
        return build_index(self.quantizer.index_codebooks().detach().numpy(), codes, kind)


class HiHPQHead(Head):
    """A hyperboloid a segment, each with its curvature; soft codes contrasted with each other and with prototypes."""

    def __init__(self, feature_dim: int, bits: int, settings: dict[str, Any]) -> None:
        super().__init__(feature_dim, settings)
        self.M, self.d = bits // 8, settings["d"]
        self.net = mlp(feature_dim, self.M * self.d)
        self.codewords = nn.Parameter(F.normalize(torch.randn(256, self.M, self.d), dim=-1))  # tangent vectors
        self.curvature = nn.Parameter(torch.ones(self.M))
        self.levels: list[tuple[Tensor, Tensor]] = []  # clusters of the images (n,), and their means (k, M, d)

    def tangent(self, x: Tensor) -> Tensor:
        """Features (b, F) -> (b, M, d)."""
        return self.net(self.standardize(x)).reshape(len(x), self.M, self.d)

    def lift(self, v: Tensor) -> Tensor:
        """Tangent vectors (b, M, d) -> points (b, M, 1 + d)."""
        return lift(v, self.curvature, self.settings["most"])

    def quantized(self, x: Tensor) -> Tensor:
        """Points (b, M, 1 + d) -> the Lorentzian centroids of their soft codes, (b, M, 1 + d)."""
        C = self.lift(self.codewords)
        # squared Lorentzian distances are -2 / curvature - 2 <x, c>_L: the first drops out of the softmax
        p = torch.softmax(2 * self.settings["sharpness"] * minkowski(x, C), dim=1)  # (b, K, M)
        mean = torch.einsum("bkm,kme->bme", p, C)
        length = -(flipped(mean) * mean).sum(dim=-1, keepdim=True)
        return mean / (length * self.curvature[:, None]).clamp_min(1e-8).sqrt()

    def loss(self, view1: Tensor, view2: Tensor, rows: Array) -> Tensor:
        s = self.settings
        x = self.quantized(self.lift(self.tangent(torch.cat([view1, view2]))))
        similarity = -geodesic(x, x, self.curvature) / s["temperature"]
        loss = contrast(similarity)
        first = x[: len(rows)]
        for labels, means in self.levels:
            mine = labels[torch.from_numpy(rows)]
            to_prototypes = -geodesic(first, self.lift(means), self.curvature) / s["temperature"]
            loss = loss + s["prototypes"] * F.cross_entropy(to_prototypes, mine) / len(self.levels)
            neighbors = neighbor_loss(similarity[: len(rows), : len(rows)], mine)
            loss = loss + s["neighbors"] * neighbors / len(self.levels)
        return loss

    def start_epoch(self, epoch: int, views: Array) -> None:
        """After the first epochs, a new hierarchy of the images' tangent vectors."""
        if epoch <= self.settings["warmup"]:
            return
        with torch.no_grad():
            x = torch.cat([self.tangent(part) for part in parts(views[:, 0])])
        self.levels = [
            (torch.from_numpy(labels), torch.from_numpy(means).reshape(-1, self.M, self.d))
            for labels, means in hierarchy(x.flatten(1).numpy(), self.settings["levels"])
        ]

    @torch.no_grad()
    def after_step(self) -> None:
        self.curvature.clamp_(*CURVATURES)

    @torch.inference_mode()
    def queries(self, x: Array) -> NDArray[np.float32]:
        """Points with the sign of their time changed, (n, M * (1 + d))."""
        return np.concatenate([flipped(self.lift(self.tangent(part))).flatten(1).numpy() for part in parts(x)])

    @torch.inference_mode()
    def index(self, xb: Array) -> Any:
        """FAISS's IndexPQ of the points' nearest codewords."""
        C = self.lift(self.codewords)
        points = (self.lift(self.tangent(part)) for part in parts(xb))
        codes = torch.cat([minkowski(x, C).argmax(dim=1).to(torch.uint8) for x in points]).numpy()
        codebooks = C.transpose(0, 1).contiguous().numpy()
        return build_index(codebooks, codes, additive=True)  # only in that codewords may have any norm


def neighbor_loss(similarity: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of another image of the same cluster, the batch's first, over similarities (N, N); 0 for none."""
    itself = torch.eye(len(labels), dtype=torch.bool)
    same = (labels[:, None] == labels) & ~itself
    known = same.any(dim=1)
    target = same.to(torch.uint8).argmax(dim=1)[known]
    found = F.cross_entropy(similarity.masked_fill(itself, -torch.inf)[known], target, reduction="sum")
    return found / len(labels)


def hierarchy(x: Array, levels: tuple[int, ...]) -> list[tuple[NDArray[np.int64], Array]]:
    """Ward's clusters of x (n, D), for each number in `levels` (labels (n,), means (k, D)), merged from the bottom.

    Above `CLUSTERED` rows a part of them, evenly spaced, is clustered, and the others join the nearest mean.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), CLUSTERED)).astype(int))
    tree = linkage(x[rows], "ward")
    found = []
    for k in levels:
        labels = np.unique(fcluster(tree, k, "maxclust"), return_inverse=True)[1]
        means = np.stack([x[rows][labels == i].mean(axis=0) for i in range(labels.max() + 1)])
        if len(rows) < len(x):
            labels = (x @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1)
        found.append((labels, means))
    return found


def default_settings(method: str) -> dict[str, Any]:
    """The papers' values for CIFAR-10, but for the batch, the optimizer and its rate, which held-out images choose."""
    own: dict[str, dict[str, Any]] = {
        "SPQ head": {"nbits": 4, "d": 16, "sharpness": 5.0, "temperature": 0.5},
        "HiHPQ head": {
            "d": 15, "sharpness": 1.0, "temperature": 0.2, "most": 1.5, "levels": (100, 50, 25), "warmup": 3,
            "prototypes": 1.0, "neighbors": 0.1,
        },
    }  # fmt: skip
    return {"lr": 1e-3, "batch_size": 128, "epochs": 60, **own[method]}


METHODS: dict[str, type[SPQHead] | type[HiHPQHead]] = {"SPQ head": SPQHead, "HiHPQ head": HiHPQHead}


def fit_quantizing(
    method: str, views: Array, bits: int, seed: int, settings: dict[str, Any] | None = None
) -> SPQHead | HiHPQHead:
    """Train on views (n, V, F)."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    torch.manual_seed(seed)
    return METHODS[method](views.shape[-1], bits, default_settings(method) | (settings or {})).fit(views, seed)
