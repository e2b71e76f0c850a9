"""Trainable product quantization by codebook attention (MeCoQ, Eq. 1-5 and 15)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SoftProductQuantizer(nn.Module):
    """M codebooks of K unit-norm codewords; a segment attends to its codebook with an alpha-softmax.

    Computed in the codebooks' precision, also under autocast and for half-precision embeddings: a rounded similarity
    would change codes.

    Shapes: embeddings z (b, D) with D = M * d; soft codes p (b, M, K), float, each (b, m) summing to 1;
    hard codes (b, M) uint8; `codebooks` (M, K, d) float32, every codeword of L2 norm 1.

    Args:
        dim: D, a multiple of `num_subquantizers`.
        num_subquantizers: M.
        codebook_size: K, 2 to 256 (codes are bytes).
        alpha: softmax sharpness, > 0; the paper's default is 10.

    Raises:
        ValueError: when a size is out of range or D is not divisible by M.
    """

    def __init__(self, dim: int, num_subquantizers: int, codebook_size: int = 256, alpha: float = 10.0) -> None:
        super().__init__()
        if num_subquantizers < 1 or dim < 1 or dim % num_subquantizers:
            raise ValueError(f"D={dim} is not divisible by M={num_subquantizers}: choose D as a multiple of M")
        if not 2 <= codebook_size <= 256:
            raise ValueError(f"K={codebook_size} is out of range: choose 2 to 256 codewords, so that a code is a byte")
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha={alpha} must be a positive number")
        self.dim, self.M, self.K, self.d = dim, num_subquantizers, codebook_size, dim // num_subquantizers
        self.alpha = float(alpha)
        self.codebooks = nn.Parameter(F.normalize(torch.randn(self.M, self.K, self.d), dim=-1))

    def segments(self, z: Tensor) -> Tensor:
        """Z (b, D) -> its segments, each divided by its norm (Eq. 1), (b, M, d)."""
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"expected embeddings of shape (b, {self.dim}), got {tuple(z.shape)}")
        return F.normalize(z.to(self.codebooks.dtype).unflatten(1, (self.M, self.d)), dim=-1)

    def unit_codebooks(self) -> Tensor:
        """The codebooks with the normalisation of Eq. 1 inside the graph, (M, K, d)."""
        return F.normalize(self.codebooks, dim=-1)

    def index_codebooks(self) -> Tensor:
        """The codebooks that the index holds, (M, K, d)."""
        return self.unit_codebooks()

    def queries(self, z: Tensor) -> Tensor:
        """Z (b, D) -> what `index.search` takes (Eq. 16): every segment of norm 1, (b, D) float32."""
        return self.segments(z).flatten(1)

    def similarities(self, z: Tensor) -> Tensor:
        """Inner products of normalised segments and codewords, (b, M, K), each in [-1, 1]."""
        with torch.autocast(z.device.type, enabled=False):
            return torch.einsum("bmd,mkd->bmk", self.segments(z), self.unit_codebooks())

    def soft_codes(self, z: Tensor) -> Tensor:
        """alpha-softmax attention (Eq. 3, 4): z (b, D) -> p (b, M, K)."""
        by_codebook = self.similarities(z).transpose(0, 1)  # (M, b, K), as they lie in memory: nothing is copied
        return torch.softmax(self.alpha * by_codebook, dim=-1).transpose(0, 1)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Hard codes (Eq. 15): z (b, D) -> (b, M) uint8, the codeword of largest inner product."""
        return self.similarities(z).argmax(dim=-1).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstructions z_hat (b, D) of soft codes (b, M, K) (Eq. 2, 5) or of hard codes (b, M) integers."""
        C = self.unit_codebooks()
        if codes.ndim == 3 and codes.shape[1:] == (self.M, self.K):
            with torch.autocast(C.device.type, enabled=False):
                z_hat = torch.einsum("bmk,mkd->bmd", codes.to(C.dtype), C)
        elif codes.ndim == 2 and codes.shape[1] == self.M and not codes.is_floating_point():
            z_hat = C[torch.arange(self.M, device=C.device), codes.long()]  # (b, M, d)
        else:
            raise ValueError(
                f"expected soft codes (b, {self.M}, {self.K}) or integer codes (b, {self.M}), "
                f"got {tuple(codes.shape)} {codes.dtype}"
            )
        return z_hat.reshape(len(codes), self.dim)

    @torch.no_grad()
    def renormalize_(self) -> None:
        """Project every codeword back to norm 1; called after each optimizer step."""
        self.codebooks.copy_(self.unit_codebooks())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Z (b, D) -> soft codes p (b, M, K) and reconstruction z_hat (b, D)."""
        p = self.soft_codes(z)
        return p, self.decode(p)
