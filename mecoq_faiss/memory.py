"""The quantization code memory: a queue of past codes that serve as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mecoq_faiss.quantizer import SoftProductQuantizer

KINDS = ("soft", "feature", "hard")


class CodeMemory(nn.Module):
    """Ring buffer of the last `size` codes.

    What is kept decides what drifts as the model learns: `soft` codes (the paper's; decoded with the codebooks of
    today), `feature` embeddings, whose segments have norm 1 (Eq. 1), or `hard` codes (these two for comparison,
    Table 2).

    Args:
        size: N_M >= 1 slots, any number (the batch need not divide it).
        quantizer: gives M, K and D.
        kind: soft, feature or hard.
    """

    def __init__(self, size: int, quantizer: SoftProductQuantizer, kind: str = "soft") -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a code memory of {size} slots: choose at least 1, or train without a memory")
        if kind not in KINDS:
            raise ValueError(f"unknown memory kind {kind!r}: choose one of {', '.join(KINDS)}")
        M, K, D = quantizer.M, quantizer.K, quantizer.dim
        shape, dtype = {
            "soft": ((M, K), torch.float32),
            "feature": ((D,), torch.float32),
            "hard": ((M,), torch.uint8),
        }[kind]
        self.size, self.kind = size, kind
        self.register_buffer("slots", torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    slots: Tensor
    pushed: Tensor

    @property
    def filled(self) -> int:
        """Slots that hold a code, 0 to `size`."""
        return min(int(self.pushed), self.size)

    @torch.no_grad()
    def push(self, z: Tensor, p: Tensor) -> None:
        """Enqueue a batch over the oldest slots: embeddings z (b, D) and their soft codes p (b, M, K)."""
        items = (z if self.kind == "feature" else p)[-self.size :]
        if self.kind == "hard":
            items = items.argmax(dim=-1)
        start = int(self.pushed) + len(z) - len(items)
        rows = (start + torch.arange(len(items), device=self.slots.device)) % self.size
        self.slots[rows] = items.to(self.slots.dtype)
        self.pushed += len(z)

    def reconstructions(self, quantizer: SoftProductQuantizer) -> Tensor | None:
        """What the filled slots stand for today, (filled, D), or None while empty."""
        filled = self.filled
        if filled == 0:
            return None
        slots = self.slots[:filled]
        return quantizer.segments(slots).flatten(1) if self.kind == "feature" else quantizer.decode(slots)
