"""Ranks: the processes that train one model together, as torchrun starts them, and what they send each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mecoq_faiss.runtime.devices import resolve_device

logger = logging.getLogger("mecoq_faiss")
FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # their names since torch 2.14
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
MOST_WAIT = timedelta(days=1)  # while rank 0 prepares; a rank that dies is noticed at once


class RankLost(RuntimeError):
    """Another rank has ended, and training cannot go on without it."""


class Ranks:
    """Rank `rank` of `size` that train together; by default one process by itself, which sends nothing.

    Whatever is sent, all ranks send in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of n items are this rank's: shares lie one behind another, and differ by one item at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def counts(self, n: int) -> list[int]:
        """How many of n items each rank's share has."""
        return [n * (rank + 1) // self.size - n * rank // self.size for rank in range(self.size)]

    def gather(self, x: Tensor, beside: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All ranks' rows of x (n, a) and beside (n, b) -> (N, a) and (N, b), rank after rank; `counts` are their n.

        Backward, a rank's rows of x receive the sum of all ranks' gradients. `beside` has none.
        """
        return (x, beside) if self.size == 1 else _Gather.apply(x, beside, self, counts)

    def gather_rows(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """All ranks' rows of x (n, a) -> (N, a), rank after rank."""
        most = max(counts)
        if self.size == 1 or not most:
            return x
        own, found = x.new_zeros(most, x.shape[1]), x.new_empty(self.size * most, x.shape[1])
        own[: len(x)] = x
        _send(ALL_GATHER, found, own)
        return torch.cat([block[:n] for block, n in zip(found.split(most), counts, strict=True)])

    def scatter_sums(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The sums over all ranks of x (N, a) -> this rank's rows of them (n, a)."""
        most = max(counts)
        blocks, own = x.new_zeros(self.size, most, x.shape[1]), x.new_empty(most, x.shape[1])
        for block, part in zip(blocks, x.split(list(counts)), strict=True):
            block[: len(part)] = part
        _send(REDUCE_SCATTER, own, blocks.flatten(0, 1))
        return own[: counts[self.rank]]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the sum of all ranks', bit for bit the same on all; sent together."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        _send(dist.all_reduce, flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def told(self, content: bytes = b"") -> bytes:
        """What the first rank says, on all."""
        if self.size == 1:
            return content
        length = torch.tensor(len(content))
        self.same_([length])
        said = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content and self.first else None
        said = torch.empty(int(length), dtype=torch.uint8) if said is None else said
        self.same_([said])
        return said.numpy().tobytes()

    def same_(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the first rank's."""
        for tensor in tensors if self.size > 1 else ():
            if tensor.numel():
                _send(partial(dist.broadcast, src=0), tensor)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            _send(dist.all_reduce, torch.zeros(1))  # of a CPU's: a barrier of NCCL has its own patience


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    """`Ranks.gather`: an all-gather, whose backward is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beside: Tensor, ranks: Ranks, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        ctx.ranks, ctx.counts = ranks, counts
        found, other = ranks.gather_rows(torch.cat([x, beside], dim=1), counts).split([x.shape[1], beside.shape[1]], 1)
        found, other = found.clone(), other.clone()
        ctx.mark_non_differentiable(other)
        return found, other

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.ranks.scatter_sums(gradients[0], ctx.counts), None, None, None


def is_first_rank() -> bool:
    """Whether this process is the first, or only, one of a training."""
    return not _started_together() or os.environ["RANK"] == "0"


@contextmanager
def joined(device: str | torch.device) -> Iterator[tuple[Ranks, str]]:
    """The ranks that torchrun's environment tells of, or one process by itself; and this one's device.

    gloo between CPUs, NCCL between GPUs, of which each rank of a machine takes its own. A process group that is there
    already is joined. All but the first rank log warnings only.

    Raises ValueError where a machine has fewer GPUs than ranks.
    """
    device = resolve_device(device)
    ours = not dist.is_initialized()
    if ours and not _started_together():
        yield ALONE, device
        return
    if device == "cuda":
        number = int(os.environ.get("LOCAL_RANK", 0))
        if number >= torch.cuda.device_count():
            raise ValueError(f"rank {number} of this machine has no GPU: start as many as it has, or --device cpu")
        device = f"cuda:{number}"
        torch.cuda.set_device(number)
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=MOST_WAIT)
    ranks, level = Ranks(dist.get_rank(), dist.get_world_size()), logger.level
    if not ranks.first:
        logger.setLevel(logging.WARNING)
    try:
        yield ranks, device
    finally:
        logger.setLevel(level)
        if ours:
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _started_together() -> bool:
    return all(name in os.environ for name in FROM_TORCHRUN) and os.environ["WORLD_SIZE"] != "1"


def _send(collective: Callable[..., Any], *tensors: Tensor) -> None:
    try:
        collective(*tensors)
    except RuntimeError as error:
        raise RankLost("another rank has ended: run the same command with --resume to continue") from error
