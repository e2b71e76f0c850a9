"""The MeCoQ model: backbone, projection, quantizer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .backbone import create_backbone
from .config import ModelConfig
from .quantizer import SoftProductQuantizer


class Quantized(NamedTuple):
    """A batch on its way through the quantizer."""

    z: Tensor  # (b, D) embeddings
    p: Tensor  # (b, M, K) soft codes
    z_hat: Tensor  # (b, D) reconstructions


class MeCoQ(nn.Module):
    """Backbone -> projection -> soft product quantizer, as `config` says.

    `embed` takes what the backbone takes: images (b, 3, h, w) float in [0, 1], or features (b, F).
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
        self.projection = _projection(config.projection, self.backbone.feature_dim, config.hidden, config.D)
        self.quantizer = SoftProductQuantizer(config.D, config.M, config.K, config.alpha)
        self.quantizer.codebooks.requires_grad_(not config.freeze_codebooks)

    def embed(self, x: Tensor) -> Tensor:
        """Images or features -> embeddings z (b, D)."""
        return self.projection(self.backbone(x))

    def quantize(self, features: Tensor) -> Quantized:
        """The backbone's features (b, F) -> embedding, soft codes, reconstruction."""
        z = self.projection(features)
        # the assignment stays in float32 under autocast
        z = z.float() if z.dtype.itemsize < 4 else z
        p, z_hat = self.quantizer(z)
        return Quantized(z, p, z_hat)

    def forward(self, x: Tensor) -> Quantized:
        return self.quantize(self.backbone(x))


def _projection(kind: str, features: int, hidden: int, D: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(features, D)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, D))
