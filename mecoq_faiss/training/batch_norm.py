"""Batch norm over the batch of all ranks; torch.nn.SyncBatchNorm does that between GPUs only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mecoq_faiss.runtime.ranks import Ranks

BatchNorm = nn.modules.batchnorm._BatchNorm


def share_statistics(net: nn.Module, ranks: Ranks) -> None:
    """Have every batch norm of a network that learns normalize by mean and variance of all ranks' images, in place."""

    @torch.compiler.disable  # a compiled network is cut here: no graph holds what ranks send
    def forward(module: BatchNorm, x: Tensor) -> Tensor:
        """The module's own, which may do more than normalize: timm's have the activation in them."""
        with _OfRanks(ranks):
            return type(module).forward(module, x)

    for module in net.modules() if ranks.size > 1 else ():
        if isinstance(module, BatchNorm):
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]


class _OfRanks(TorchFunctionMode):
    """Within, `torch.nn.functional.batch_norm` is that of all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return batch_norm(self.ranks, *args, **given) if func is F.batch_norm else func(*args, **given)


def batch_norm(
    ranks: Ranks,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of all ranks' x (b, C, ...), of which a rank may have none."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, variance, count = _statistics(x.detach(), ranks)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return _Normalize.apply(x, weight, bias, mean, variance, count, eps, ranks)


def _statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,) and variance (C,) of all ranks' x (b, C, ...), and how many numbers of a channel that is, ()."""
    C, x = x.shape[1], x.to(torch.promote_types(x.dtype, torch.float32))
    own = x.new_zeros(1, 2 * C + 1)
    if len(x):
        own[0] = torch.cat([*torch.batch_norm_update_stats(x, None, None, 0.0), own.new_tensor([x.numel() / C])])
    means, variances, counts = ranks.gather_rows(own, [1] * ranks.size).split([C, C, 1], dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(dim=0)
    return mean, (shares * (variances + (means - mean).square())).sum(dim=0), counts.sum()


class _Normalize(torch.autograd.Function):
    """x (b, C, ...) less the mean, over the standard deviation, scaled and shifted by weight and bias.

    Mean and variance are those of x itself on all ranks, and have their part in the gradient of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor,
        eps: float, ranks: Ranks,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.ranks = eps, ranks
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        dy, dweight, dbias = gradients[0], torch.zeros_like(weight), torch.zeros_like(weight)
        if len(x):
            _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
        total = torch.stack([dweight, dbias])
        ctx.ranks.sum_([total])
        rstd, shape = (variance + ctx.eps).rsqrt(), (1, -1, *[1] * (x.ndim - 2))
        scale = weight * rstd  # of dy; the rest is what mean and variance add
        slope = -scale * rstd * total[0] / count
        shift = -scale * total[1] / count - slope * mean
        dx = torch.addcmul(shift.view(shape), x, slope.view(shape)).addcmul_(dy, scale.view(shape))
        return dx.to(x.dtype), dweight, dbias, *(None,) * 5
