"""A linear layer that learns at the processor's own rate, whoever made it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 256  # a product with a side below this gains less than its copies cost


class FastLinear(nn.Linear):
    """`nn.Linear` whose float32 products run in oneDNN while it learns on an AMD processor.

    torch gives them to MKL, which leaves out AVX-512 there: oneDNN took half the time. On Intel's processors MKL is
    1.3 to 1.5 times as fast as oneDNN with its copies. The results are the same to float32's rounding. Everywhere
    else (inference, GPUs, bfloat16, small layers) it is `nn.Linear`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self._takes(input):
            return _OneDnnLinear.apply(input, self.weight, self.bias)  # type: ignore[no-any-return]
        return super().forward(input)

    def _takes(self, x: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and self.weight.requires_grad
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and x.ndim == 2
            and min(*x.shape, *self.weight.shape) >= SMALLEST
            and mkl_lags()
        )


@cache
def mkl_lags() -> bool:
    """Whether this is an AMD processor, and torch has both MKL and oneDNN."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        processor = platform.processor()
    return "AuthenticAMD" in processor and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = _product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_x, _product(gradient.T, x.T), of_bias


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b.T + bias."""
    laid_out = (None if t is None else t.detach().contiguous().to_mkldnn() for t in (a, b, bias))
    return F.linear(*laid_out).to_dense()  # type: ignore[arg-type]
