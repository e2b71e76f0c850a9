"""The fast linear layer: nn.Linear's values and gradients, and where it leaves the work to nn.Linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mecoq_faiss import linear
from mecoq_faiss.linear import SMALLEST, FastLinear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the products that ran in oneDNN, as on an AMD processor."""
    monkeypatch.setattr(linear, "mkl_lags", lambda: True)
    shapes: list[tuple[int, ...]] = []
    product: Callable[..., Tensor] = linear._product

    def noted(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((len(a), a.shape[1], len(b)))
        return product(a, b, bias)

    monkeypatch.setattr(linear, "_product", noted)
    return shapes


def gradients(layer: nn.Linear, x: Tensor, weights: Tensor) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    parameters = [p for p in (layer.weight, layer.bias) if p is not None]
    return [y, *torch.autograd.grad((y * weights).sum(), [leaf, *parameters])]


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_a_linear_layer(bias: bool, products: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    b, inputs, outputs = SMALLEST, SMALLEST + 40, SMALLEST + 8
    layer = FastLinear(inputs, outputs, bias=bias)
    exact = nn.Linear(inputs, outputs, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x, weights = torch.randn(b, inputs), torch.randn(b, outputs)
    measured = gradients(layer, x, weights)
    assert products == [(b, inputs, outputs), (b, outputs, inputs), (outputs, b, inputs)]
    for got, expected in zip(measured, gradients(exact, x.double(), weights.double()), strict=True):
        torch.testing.assert_close(got.double(), expected, atol=2e-4, rtol=2e-5)
    assert all(torch.equal(one, two) for one, two in zip(measured, gradients(layer, x, weights), strict=True))


def test_no_gradient_is_computed_that_nobody_asked_for(products: list[tuple[int, ...]]) -> None:
    layer = FastLinear(SMALLEST, SMALLEST)
    layer(torch.randn(SMALLEST, SMALLEST)).sum().backward()
    assert len(products) == 2 and layer.weight.grad is not None


def small(layer: FastLinear) -> None:
    layer(torch.randn(SMALLEST - 1, SMALLEST))


def inference(layer: FastLinear) -> None:
    with torch.no_grad():
        layer(torch.randn(SMALLEST, SMALLEST))


def bfloat16(layer: FastLinear) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(SMALLEST, SMALLEST)).dtype == torch.bfloat16


def float64(layer: FastLinear) -> None:
    layer.double()(torch.randn(SMALLEST, SMALLEST, dtype=torch.float64))


def frozen(layer: FastLinear) -> None:
    layer.requires_grad_(False)(torch.randn(SMALLEST, SMALLEST))


@pytest.mark.parametrize("use", [small, inference, bfloat16, float64, frozen])
def test_elsewhere_it_is_a_linear_layer(use: Callable[[FastLinear], Any], products: list[tuple[int, ...]]) -> None:
    use(FastLinear(SMALLEST, SMALLEST))
    assert not products


def test_where_mkl_is_fast_it_is_a_linear_layer(
    products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "mkl_lags", lambda: False)
    FastLinear(SMALLEST, SMALLEST)(torch.randn(SMALLEST, SMALLEST))
    assert not products


@pytest.mark.parametrize("vendor, lags", [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_processor_decides(vendor: str, lags: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.Path, "read_text", lambda *a, **k: f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert linear.mkl_lags.__wrapped__() == lags
