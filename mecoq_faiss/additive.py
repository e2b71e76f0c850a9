"""AdditiveQuantizer: an embedding as the sum of M codewords of its own width, found by beam search.

<q, sum_m c_m> = sum_m <q, c_m>: an IndexPQ of dimension M * D whose m-th codebook is the m-th one here, searched with
the query M times in a row, gives these scores at M bytes a vector. See docs/how-it-works.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BEAM = 16  # sums kept from one codebook to the next
BLOCK_FLOATS = 1 << 24  # of a beam search's table


class AdditiveQuantizer(nn.Module):
    """M codebooks of K codewords of full width D; a vector is coded by the sum nearest to it.

    The codebooks are zeros until `set_codebooks`: they are fitted once there is an embedding. Of a learned one (metric
    `aqs`) and for `cosine` vectors have norm 1, for `ip` (inner product) any; for `l2` the last of their coordinates is
    1 in a query and -|x|^2 / 2 of the others in a key, so that larger inner products mean smaller distances.

    Shapes: embeddings z (b, D); queries (b, M * D), as `index.search` takes them; codes (b, M) uint8;
    `codebooks` (M, K, D) float32, codewords of any norm.

    Args:
        dim: D.
        num_codebooks: M.
        codebook_size: K, 2 to 256 (codes are bytes).
        metric: `aqs`, `cosine`, `ip` or `l2`.

    Raises:
        ValueError: when a size is out of range.
    """

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int = 256, metric: str = "aqs") -> None:
        super().__init__()
        if num_codebooks < 1 or dim < 1:
            raise ValueError(f"D={dim} and M={num_codebooks} must be at least 1")
        if not 2 <= codebook_size <= 256:
            raise ValueError(f"K={codebook_size} is out of range: choose 2 to 256 codewords, so that a code is a byte")
        self.dim, self.M, self.K, self.d = dim, num_codebooks, codebook_size, dim
        self.metric = metric
        self.codebooks = nn.Parameter(torch.zeros(self.M, self.K, self.d), requires_grad=False)
        self._fitted = False

    @property
    def is_fitted(self) -> bool:
        """Whether it has codebooks; once it has, they are not looked at again."""
        if not self._fitted:
            self._fitted = bool(self.codebooks.any())
        return self._fitted

    @torch.no_grad()
    def set_codebooks(self, codebooks: Tensor) -> None:
        """Take fitted codebooks (M, K, D)."""
        self.codebooks.copy_(codebooks)

    def index_codebooks(self) -> Tensor:
        """The codebooks that the index holds, (M, K, D)."""
        return self.codebooks.detach()

    def query(self, z: Tensor) -> Tensor:
        """Z (b, D) -> what is compared with sums of codewords, (b, D) float32 (float64 stays)."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.metric in ("aqs", "cosine"):
            return F.normalize(z, dim=1)
        return z if self.metric == "ip" else F.pad(z[:, :-1], (0, 1), value=1.0)

    def queries(self, z: Tensor) -> Tensor:
        """Z (b, D) -> what `index.search` takes: the query, M times in a row, (b, M * D) float32."""
        return self.query(z).repeat(1, self.M)

    def keys(self, queries: Tensor) -> Tensor:
        """What codes stand for, (b, D), of queries (b, D) or (b, M * D)."""
        x = queries[:, : self.d]
        if self.metric != "l2":
            return x
        return torch.cat([x[:, :-1], -x[:, :-1].square().sum(dim=1, keepdim=True) / 2], dim=1)

    def similarities(self, queries: Tensor) -> Tensor:
        """Inner products of queries (b, M * D) and codewords, (b, M, K); a score is the sum of M of them."""
        return torch.einsum("bmd,mkd->bmk", queries.reshape(len(queries), self.M, self.d), self.codebooks)

    @torch.no_grad()
    def encode(self, queries: Tensor) -> Tensor:
        """Codes (b, M) uint8 of queries (b, M * D)."""
        return beam_search(self.codebooks, self.keys(queries))

    def decode(self, codes: Tensor) -> Tensor:
        """The sums (b, D) that codes (b, M) stand for."""
        return sums(self.codebooks, codes)


def sums(codebooks: Tensor, codes: Tensor) -> Tensor:
    """The sums (b, D) of the codewords of codebooks (M, K, D) that codes (b, M) name."""
    M, K, D = codebooks.shape
    rows = codes.long() + K * torch.arange(M, device=codes.device)
    return F.embedding_bag(rows, codebooks.reshape(M * K, D), mode="sum")


def beam_search(codebooks: Tensor, z: Tensor, beam: int = BEAM) -> Tensor:
    """Codes (n, M) uint8 of z (n, D): codebook after codebook the `beam` sums nearest to z are kept.

    Codebooks (M, K, D). Where M * log2(K) is large this is not the nearest of all sums, but near it.
    """
    M, K, D = codebooks.shape
    if not len(z):
        return torch.empty(0, M, dtype=torch.uint8, device=z.device)
    size = max(1, BLOCK_FLOATS // (beam * max(K, D)))
    return torch.cat([_beam_search(codebooks, block, beam) for block in z.split(size)])


def _beam_search(codebooks: Tensor, z: Tensor, beam: int) -> Tensor:
    M, K, _ = codebooks.shape
    n, norms = len(z), codebooks.square().sum(dim=-1)  # (M, K)
    residual, distance = z[:, None], z.new_zeros(n, 1)  # (n, B, D), (n, B) less z's own squared norm
    codes = torch.empty(n, 1, 0, dtype=torch.int64, device=z.device)
    for m in range(M):
        further = distance[..., None] + norms[m] - 2 * residual @ codebooks[m].T  # (n, B, K)
        kept = min(beam if m < M - 1 else 1, further[0].numel())
        distance, place = further.flatten(1).topk(kept, dim=1, largest=False)
        source, code = place.div(K, rounding_mode="floor"), place % K  # (n, B)
        codes = torch.cat([_taken(codes, source), code[..., None]], dim=2)
        residual = _taken(residual, source) - codebooks[m][code]
    return codes[:, 0].to(torch.uint8)


def _taken(of_beam: Tensor, source: Tensor) -> Tensor:
    """Rows (n, B, w) of what was kept before, (n, A, w), by number (n, B)."""
    return of_beam.gather(1, source[..., None].expand(-1, -1, of_beam.shape[2]))
