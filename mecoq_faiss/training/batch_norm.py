"""Batch norm over the batch of all ranks; torch.nn.SyncBatchNorm does that between GPUs only."""

from __future__ import annotations

from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn

from mecoq_faiss.runtime.ranks import Ranks

BatchNorm = nn.modules.batchnorm._BatchNorm


def share_statistics(net: nn.Module, ranks: Ranks) -> None:
    """Have every batch norm of a network that learns normalize by mean and variance of all ranks' images, in place."""
    for module in net.modules() if ranks.size > 1 else ():
        if isinstance(module, BatchNorm):
            module.forward = MethodType(partial(_normalize, ranks=ranks), module)  # type: ignore[method-assign]


def _normalize(module: BatchNorm, x: Tensor, ranks: Ranks) -> Tensor:
    """`nn.BatchNorm`'s forward of x (b, C, ...), of which a rank may have none."""
    if not module.training:
        return type(module).forward(module, x)
    C = x.shape[1]
    rows = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).reshape(C, -1)  # (C, n)
    n = rows.new_full((1,), rows.shape[1])
    sums = ranks.total(torch.cat([rows.sum(dim=1), n]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    variance = ranks.total((rows - mean[:, None]).square().sum(dim=1)) / count
    if module.running_mean is not None and module.running_var is not None:
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.add_(1)
        share = module.momentum if module.momentum is not None else 1 / module.num_batches_tracked.item()
        module.running_mean.lerp_(mean.detach().to(module.running_mean.dtype), share)
        unbiased = variance.detach() * count / (count - 1)
        module.running_var.lerp_(unbiased.to(module.running_var.dtype), share)
    scale = (variance + module.eps).rsqrt() * module.weight
    shape = (1, C, *[1] * (x.ndim - 2))
    shift = (module.bias - mean * scale).view(shape)
    return (x * scale.view(shape) + shift).to(x.dtype)
