"""The model: standardised features, projection, precision under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mecoq_faiss.config import ModelConfig
from mecoq_faiss.model import MeCoQ, Standardize

CONFIG: dict[str, Any] = {
    "backbone": "features",
    "weights": "none",
    "feature_dim": 10,
    "hidden": 12,
    "D": 8,
    "M": 2,
    "nbits": 4,
}


def test_standardize_measures_mean_and_deviation() -> None:
    x = torch.randn(500, 3) * torch.tensor([2.0, 5.0, 0.0]) + torch.tensor([1.0, -7.0, 4.0])
    layer = Standardize(3)
    assert torch.equal(layer(x), x)
    layer.fit(x)
    y = layer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    layer.fit(torch.ones(4, 3))  # nothing varies
    assert layer(torch.ones(4, 3)).isfinite().all()


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_forward_is_projection_then_quantizer(projection: str) -> None:
    model = MeCoQ(ModelConfig(**CONFIG, projection=projection, standardize=False))
    x = torch.randn(5, 10)
    if projection == "linear":
        assert isinstance(model.projection, nn.Linear)
        expected = x @ model.projection.weight.T + model.projection.bias
    else:
        assert isinstance(model.projection, nn.Sequential)
        first, _, last = model.projection
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        expected = (x @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    z, p, z_hat = model(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(model.embed(x), expected)
    torch.testing.assert_close(z_hat, model.quantizer.decode(model.quantizer.soft_codes(z)))
    torch.testing.assert_close(p.sum(-1), torch.ones(5, 2))


def test_the_assignment_stays_in_float32_under_autocast() -> None:
    model = MeCoQ(ModelConfig(**CONFIG))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, p, z_hat = model(torch.randn(50, 10))
    exact_p, exact_z_hat = model.quantizer(z.float())
    assert z.dtype == torch.bfloat16 and torch.equal(p, exact_p) and torch.equal(z_hat, exact_z_hat)


def test_features_of_another_width() -> None:
    with pytest.raises(ValueError, match="width 10"):
        MeCoQ(ModelConfig(**CONFIG)).embed(torch.zeros(2, 9))


def test_cached_features_pass_by_the_backbone() -> None:
    model = MeCoQ(ModelConfig(backbone="pixels", weights="none", image_size=4, D=8, M=2, nbits=4))
    images = torch.rand(3, 3, 4, 4)
    torch.testing.assert_close(model.embed(model.backbone(images)), model.embed(images))
