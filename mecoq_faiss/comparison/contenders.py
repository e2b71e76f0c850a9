"""What is compared: the learned codes and fitted baselines, each as a filled FAISS index of the same features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mecoq_faiss.baselines.baseline import Array, FittedBaseline
from mecoq_faiss.index import build_index
from mecoq_faiss.index.exhaustive import use_fastscan
from mecoq_faiss.model import MeCoQ

LEARNED = "MeCoQ"
BATCH = 4096


@dataclass(frozen=True)
class Contender:
    """One method, its index of the database filled.

    Attributes:
        label: `MeCoQ`, or a baseline's method.
        setting: what it is in full, such as `PQ 4x8, centred, L2`.
        num_bytes: bytes a vector in the index.
        index: as an application would search it; 4-bit codes are in FastScan's layout.
        queries: features (b, F) -> what `index.search` takes.
        codes: (n, M) uint8, or None for a method without codewords.
        K: codewords a codebook.
    """

    label: str
    setting: str
    num_bytes: int
    index: Any
    queries: Callable[[Array], Array]
    codes: Array | None = None
    K: int = 0

    @property
    def codewords_used(self) -> list[dict[str, float]]:
        """For each sub-quantizer the shares of codewords in use, {"used": ..., "effective": ...}.

        `used` counts those that occur; `effective` the equally frequent ones that would carry as much information,
        2**entropy / K.
        """
        if self.codes is None:
            return []
        shares = []
        for column in self.codes.T:
            p = np.bincount(column, minlength=self.K) / len(column)
            entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
            shares.append({"used": float((p > 0).mean()), "effective": float(2**entropy / self.K)})
        return shares


def learned_contender(model: MeCoQ, xb: Array) -> Contender:
    """A trained model's codes of backbone features xb (n, F)."""
    c = model.config
    quantizer = model.coder
    additive = quantizer is model.additive
    codes = np.concatenate([quantizer.encode(xq).cpu().numpy() for xq in _vectors(model, xb)])
    codebooks = quantizer.index_codebooks().detach().cpu().numpy()
    index = build_index(codebooks, codes, "pqfs" if c.nbits == 4 else "pq", additive=additive)
    setting = f"{LEARNED} {c.M}x{c.nbits}, D={c.D}" + (", additive" if additive else "")
    return Contender(LEARNED, setting, c.bits // 8, index, lambda x: embed_features(model, x), codes, c.K)


def embed_features(model: MeCoQ, x: Array) -> Array:
    """Backbone features (n, F) -> queries (n, d) float32, as `Encoder.encode` gives them."""
    return np.concatenate([z.cpu().numpy() for z in _vectors(model, x)])


@torch.inference_mode()
def _vectors(model: MeCoQ, x: Array) -> list[torch.Tensor]:
    device = model.quantizer.codebooks.device
    parts = (x[i : i + BATCH] for i in range(0, len(x), BATCH))
    return [model.vectors(torch.from_numpy(np.array(part, dtype=np.float32)).to(device)) for part in parts]


def baseline_contender(fitted: FittedBaseline, xb: Array) -> Contender:
    """A fitted baseline's codes of features xb (n, F)."""
    b = fitted.baseline
    index, codes = fitted.index(xb), fitted.codes(xb)
    if b.nbits == 4 and b.method in ("PQ", "OPQ"):  # additive 4-bit codes are in FastScan's layout from the start
        use_fastscan(index)
    num_bytes, K = b.num_bytes or 4 * xb.shape[1], 0 if codes is None else 2**b.nbits
    return Contender(b.method, b.name, num_bytes, index, fitted.transform_queries, codes, K)
