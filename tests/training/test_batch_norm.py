"""Batch norm on two ranks is torch's of the whole batch: forward, backward, running statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from mecoq_faiss.runtime.ranks import ALONE, Ranks, joined
from mecoq_faiss.training.batch_norm import batch_norm, share_statistics
from tests.training.group import on_ranks

B, C = 7, 3
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2d": (lambda: nn.BatchNorm2d(C), (B, C, 4, 5)),
    "1d, cumulative": (lambda: nn.BatchNorm1d(C, momentum=None, eps=0.1), (B, C)),
    "with an activation": (lambda: BatchNormAct2d(C), (B, C, 4, 5)),
    "compiled": (lambda: BatchNormAct2d(C), (B, C, 4, 5)),
    "without weights": (lambda: nn.BatchNorm2d(C, affine=False, track_running_stats=False), (B, C, 4, 5)),
}
FIRST_HAS = (B, 3)  # of a batch: once the second rank has none


def normalized(name: str, dtype: torch.dtype, first_has: int | None = None) -> dict[str, Tensor]:
    """What becomes of two batches, of which a rank has its rows: outputs, gradients, statistics."""
    with joined("cpu") as (ranks, _):
        share = slice(None) if first_has is None else (slice(first_has), slice(first_has, None))[ranks.rank]
        return _normalized(name, dtype, ranks, share)


def _normalized(name: str, dtype: torch.dtype, ranks: Ranks, share: slice) -> dict[str, Tensor]:
    make, shape = NORMS[name]
    norm, generator = make().to(dtype), torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    share_statistics(norm, ranks)
    if name == "compiled" and ranks.size > 1:  # nothing of it is: it needs no compiler
        norm.compile()
    for number in range(2):
        x = (5 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)[share].requires_grad_()
        wanted = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)[share]
        y = norm(x)
        loss = (y * wanted).square().sum()
        loss.backward()
        ranks.sum_([p.grad for p in norm.parameters() if p.grad is not None])
        assert x.grad is not None
        found |= {f"y {number}": y.detach(), f"dx {number}": x.grad}
        found |= {f"d{key} {number}": p.grad.clone() for key, p in norm.named_parameters() if p.grad is not None}
        norm.zero_grad()
    norm.eval()
    return found | {"evaluated": norm(x).detach()} | {key: t.clone() for key, t in norm.named_buffers()}


CASES = [(name, dtype, n) for name in NORMS for dtype in (torch.float32, torch.float64) for n in FIRST_HAS]


def each_case() -> list[dict[str, np.ndarray]]:
    return [{key: t.numpy() for key, t in normalized(*case).items()} for case in CASES]


@pytest.fixture(scope="module")
def of_ranks() -> list[list[dict[str, np.ndarray]]]:
    return on_ranks(2, each_case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_that_of_the_whole_batch(
    case: tuple[str, torch.dtype, int], of_ranks: list[list[dict[str, np.ndarray]]]
) -> None:
    name, dtype, _ = case
    first, second = (of_rank[CASES.index(case)] for of_rank in of_ranks)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for key, whole in normalized(name, dtype).items():
        if key[:2] in ("y ", "dx", "ev"):
            found = np.concatenate([first[key], second[key]])
        else:
            found = first[key]
            np.testing.assert_array_equal(found, second[key], err_msg=key)
        np.testing.assert_allclose(found, whole, rtol=0, atol=tolerance * float(whole.abs().max()), err_msg=key)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_in_bfloat16_it_keeps_the_layout_and_float32_statistics(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (3 + 2 * torch.randn(8, C, 5, 5, generator=generator)).bfloat16().contiguous(memory_format=layout)
    norm = nn.BatchNorm2d(C)
    mean, variance = torch.zeros(C), torch.ones(C)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    ys = [norm(xs[0]), batch_norm(ALONE, xs[1], mean, variance, norm.weight, norm.bias, True)]
    for y in ys:
        y.backward(torch.ones_like(y) * torch.arange(5).bfloat16())
    torch.testing.assert_close(ys[1], ys[0])
    torch.testing.assert_close(xs[1].grad, xs[0].grad, rtol=0.02, atol=0.02)
    assert ys[1].is_contiguous(memory_format=layout)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance, norm.running_var)
