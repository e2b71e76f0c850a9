"""The MeCoQ model: backbone, projection, quantizer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mecoq_faiss.additive import AdditiveQuantizer
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.config import ModelConfig
from mecoq_faiss.data.features import STD_FLOOR
from mecoq_faiss.quantizer import SoftProductQuantizer


class Quantized(NamedTuple):
    """A batch on its way through the quantizer."""

    z: Tensor  # (b, D) embeddings
    p: Tensor  # (b, M, K) soft codes
    z_hat: Tensor  # (b, D) reconstructions


class Standardize(nn.Module):
    """Features (b, F) -> zero mean and unit variance, as `fit` measured them once before training.

    Pooled features of a pretrained network share a large common direction; without it the projection learns faster
    and ends better.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    mean: Tensor
    scale: Tensor

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Measure features (n, F); a feature that hardly varies is not blown up."""
        std = features.float().std(dim=0, correction=0)
        self.mean.copy_(features.float().mean(dim=0))
        self.scale.copy_(std.clamp_min(STD_FLOOR * std.mean()).clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Features (b, F) -> standardized ones (b, F)."""
        return (features - self.mean).div_(self.scale)


class Rescale(nn.Module):
    """Features (b, F) to preserve -> of norm 1 for cosine, else divided by their root mean square norm.

    For L2 they are centred too. The mean and the norm are measured once, by `fit`.
    """

    def __init__(self, feature_dim: int, metric: str) -> None:
        super().__init__()
        self.metric = metric
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(()))

    mean: Tensor
    scale: Tensor

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Measure features (n, F)."""
        x = features.double()
        if self.metric == "l2":
            self.mean.copy_(x.mean(dim=0))
            x = x - x.mean(dim=0)
        self.scale.copy_(x.square().sum(dim=1).mean().sqrt().clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Features (b, F) -> rescaled ones (b, F)."""
        if self.metric == "cosine":
            return F.normalize(features, dim=1)
        return (features - self.mean) / self.scale


class MeCoQ(nn.Module):
    """Backbone -> projection -> soft product quantizer, as `config` says.

    Takes images (b, 3, h, w) float in [0, 1], or the backbone's features (b, F).

    Example:
        >>> from mecoq_faiss import MeCoQ, ModelConfig
        >>> model = MeCoQ(ModelConfig(backbone="features", weights="none", feature_dim=32, D=16, M=4))
        >>> tuple(model.embed(torch.rand(5, 32)).shape)
        (5, 16)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_backbone(
            config.backbone,
            config.weights,
            trainable_layers=config.trainable_layers,
            image_size=config.image_size,
            feature_dim=config.feature_dim,
        )
        self.standardize = _standardize(config, self.backbone.feature_dim)
        self.projection = _projection(config.projection, self.backbone.feature_dim, config.hidden, config.D)
        self.quantizer = SoftProductQuantizer(config.D, config.M, config.K, config.alpha)
        self.quantizer.codebooks.requires_grad_(not config.freeze_codebooks)
        self.additive = None
        if config.codes == "additive":
            self.additive = AdditiveQuantizer(config.D, config.M, config.K, config.metric)
            self.additive.codebooks.requires_grad_(self.preserves)
            self.quantizer.requires_grad_(not self.preserves)

    @property
    def preserves(self) -> bool:
        """Whether the codes stand for given features, whose metric they preserve, and not for a learned embedding."""
        return self.config.metric != "aqs"

    @property
    def coder(self) -> SoftProductQuantizer | AdditiveQuantizer:
        """What makes the codes: the product quantizer, or the additive one as soon as it is fitted."""
        return self.quantizer if self.additive is None or not self.additive.is_fitted else self.additive

    def features(self, x: Tensor) -> Tensor:
        """Images (b, 3, h, w) through the backbone; its features (b, F), cached ones for example, as they are."""
        if x.ndim == 2 and x.shape[1] != self.backbone.feature_dim:
            raise ValueError(f"the model takes features of width {self.backbone.feature_dim}, got {tuple(x.shape)}")
        return x if x.ndim == 2 else self.backbone(x)

    def embed(self, x: Tensor) -> Tensor:
        """Images or features -> embeddings z (b, D)."""
        return self.projection(self.standardize(self.features(x)))

    def vectors(self, x: Tensor) -> Tensor:
        """Images or features -> what `index.search` takes, float32.

        Of product codes (Eq. 16) z with every segment of norm 1, (b, D); of additive ones the same divided by sqrt(M),
        and M times in a row, (b, M * D). Of codes that preserve a metric z itself, M times in a row.
        """
        return self.queries(self.embed(x), self.coder)

    def queries(self, z: Tensor, coder: SoftProductQuantizer | AdditiveQuantizer) -> Tensor:
        """Embeddings z (b, D) -> the `vectors` of the codes that `coder` makes."""
        z = z.float()
        if self.preserves:
            return coder.queries(z)
        z = self.quantizer.queries(z)
        return z if coder is self.quantizer else coder.queries(z)

    def forward(self, x: Tensor) -> Quantized:
        """Images or features -> embeddings, soft codes, reconstructions."""
        z = self.embed(x)
        p, z_hat = self.quantizer(z)
        return Quantized(z, p, z_hat)


def _standardize(config: ModelConfig, feature_dim: int) -> nn.Module:
    if config.metric != "aqs":
        return Rescale(feature_dim, config.metric)
    return Standardize(feature_dim) if config.standardize else nn.Identity()


def _projection(kind: str, features: int, hidden: int, D: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(features, D)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, D))
