"""The proof of an exported index: its search against the AQS that torch computes (Eq. 15-17)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.additive import AdditiveQuantizer
from mecoq_faiss.index import describe_index, set_search_effort, without_ids
from mecoq_faiss.index.codes import code_blocks
from mecoq_faiss.index.inspect import equal_ids
from mecoq_faiss.quantizer import SoftProductQuantizer

Quantizer = SoftProductQuantizer | AdditiveQuantizer
MAX_DIFFERENCE = 1e-4  # of scores in [-M, M], of additive codes about [-1, 1], float32
K_CHECKED = 100
K_MEASURED = 10
SCORES = 300_000_000  # about as many are computed for the proof
FEWEST_QUERIES = 8
BLOCK_SCORES = 1 << 18


class VerificationError(RuntimeError):
    """The written index does not compute what the model computes.

    Example:
        >>> from mecoq_faiss import VerificationError, export_index
        >>> try:
        ...     figures = export_index("run", "photos", "bundle-proved")["verification"]
        ... except VerificationError as error:  # no bundle is left
        ...     print(error)
    """


@torch.inference_mode()
def best_scores(quantizer: Quantizer, xq: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    """The k largest asymmetric quantized similarities (Eq. 16, 17) of each query, (nq, k) float32 in falling order.

    Queries (nq, M * d), codes (n, M) uint8, k at most n; memory does not grow with n.
    """
    table, first = _table(quantizer, xq)
    best: Tensor | None = None  # (nq, k)
    for _, block in code_blocks(codes, max(k, BLOCK_SCORES // len(xq))):
        scores = F.embedding_bag(torch.from_numpy(block.astype(np.int32)) + first, table, mode="sum")  # (b, nq)
        if best is not None and best.shape[1] == k:  # few rows are still among somebody's best
            hits = np.flatnonzero((scores > best[:, -1]).numpy())  # far sooner than torch's any() of each row
            scores = scores[np.unique(hits // len(xq))]
        joined = scores.T if best is None else torch.cat([best, scores.T], dim=1)
        best = joined.topk(min(k, joined.shape[1]), dim=1).values
    assert best is not None
    return best.numpy()


@torch.inference_mode()
def scores_of(quantizer: Quantizer, xq: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """AQS of each query (nq, M * d) with its own codes (nq, k, M), (nq, k) float32."""
    table, first = _table(quantizer, xq)
    rows = torch.from_numpy(codes.astype(np.int64)) + first  # (nq, k, M)
    picked = table.T.gather(1, rows.flatten(1)).view(rows.shape)
    return picked.sum(dim=2).numpy()


def _table(quantizer: Quantizer, xq: np.ndarray) -> tuple[Tensor, Tensor]:
    """Lookup table (M * K, nq) and the number of each subquantizer's first row (M,) int32."""
    similarities = quantizer.similarities(torch.from_numpy(xq))  # (nq, M, K)
    first = torch.arange(quantizer.M, dtype=torch.int32) * quantizer.K
    return similarities.flatten(1).T.contiguous(), first


def table_rounding(quantizer: Quantizer, xq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far FastScan's scores may be from AQS, and the lowest AQS that any code has, each (nq,).

    It rounds each query's table to 255 steps of the widest subquantizer's range: half a step for each of M. A code
    whose rounded score is the lowest that there is it never finds, even where fewer than k others are there.
    """
    with torch.inference_mode():
        s = quantizer.similarities(torch.from_numpy(xq))  # (nq, M, K)
        widest = (s.amax(dim=2) - s.amin(dim=2)).amax(dim=1)
        lowest = s.amin(dim=2).sum(dim=1)
    return widest.numpy() / 255 * quantizer.M / 2, lowest.numpy()


def verify(
    index: Any,
    index_codebooks: np.ndarray,
    quantizer: Quantizer,
    codes: np.ndarray,
    xq: np.ndarray,
    re_encoded: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    ids: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare a reloaded index with torch and return the figures; VerificationError where they do not agree.

    With every list visited, each score must be AQS (of FastScan: within its table rounding) and each item found must
    belong to the true top k (by at most what both roundings together can misplace). Then the lists that the index
    visits by itself are searched, and the share of the true neighbours that they hold is measured.

    Args:
        index: the FAISS index as read from its file, of a kind of `index.KINDS`. It is left as it was.
        index_codebooks: (M, K, d), read from it.
        quantizer: the model's.
        codes: (n, M) uint8 that were put into it; may be a memory map, or read by and by.
        xq: queries (nq, M * d) float32, as the index takes them, that are not in the database.
        re_encoded: (rows, codes) of some images that were encoded a second time.
        ids: (n,) int64, the ids it must return; None for positions.

    Returns:
        `queries`, `k`; `max_score_difference`, and `table_rounding` that bounds it (0 but for FastScan);
        `top_k_agreement`, the share of found items whose true score reaches the k-th best; `recall_at_10`, the
        same for the first ten as the index searches by itself; `equal_codes` where images were encoded again; and the
        codebooks' differences.
    """
    n = len(codes)
    k, k10 = min(K_CHECKED, n), min(K_MEASURED, n)
    xq = xq[: max(FEWEST_QUERIES, SCORES // n)]
    said = describe_index(index)
    inner = without_ids(index)
    best = best_scores(quantizer, xq, codes, k)
    fastscan = said["kind"].endswith("fs")
    rounding, floor = np.zeros(len(xq), np.float32), np.full(len(xq), -np.inf, np.float32)
    if fastscan:
        rounding, floor = table_rounding(quantizer, xq)
    score_tolerance = MAX_DIFFERENCE + (0 if said["refine"] else rounding[:, None])
    if said["nlist"]:
        set_search_effort(index, nprobe=said["nlist"])
    D, I = inner.search(xq, k)
    if said["nlist"]:
        set_search_effort(index, nprobe=said["nprobe"])
    truth = scores_of(quantizer, xq, codes[np.maximum(I, 0)])
    found = I >= 0
    difference = np.where(found, np.abs(D - truth), 0)
    exhaustive = not fastscan and said["nlist"] == said["nprobe"]
    I10 = I[:, :k10] if exhaustive else inner.search(xq, k10)[1]  # that search would find the same
    truth10 = scores_of(quantizer, xq, codes[np.maximum(I10, 0)])
    figures: dict[str, Any] = {
        "queries": len(xq),
        "k": k,
        "max_score_difference": float(difference.max()),
        "table_rounding": float(rounding.max()),
        "top_k_agreement": _share(found, truth, best[:, k - 1]),
        f"recall_at_{K_MEASURED}": _share(I10 >= 0, truth10, best[:, k10 - 1]),
        "max_codebook_difference": float(
            np.abs(index_codebooks - quantizer.index_codebooks().detach().cpu().numpy()).max()
        ),
    }
    if isinstance(quantizer, SoftProductQuantizer):
        norms = np.linalg.norm(index_codebooks, axis=-1)
        figures["max_codeword_norm_error"] = float(np.abs(norms - 1).max())
    problems = [
        f"{name} is {figures[name]:.3g}"
        for name in ("max_codeword_norm_error", "max_codebook_difference")
        if figures.get(name, 0) > MAX_DIFFERENCE
    ]
    if re_encoded is not None:
        rows, again = re_encoded
        figures["equal_codes"] = float((codes[rows] == again).mean())
        if figures["equal_codes"] < 0.99:
            problems.append(f"only {figures['equal_codes']:.3f} of the codes are the same when encoded again")
    if (difference > score_tolerance).any():
        problems.append(f"scores differ by {difference.max():.3g}")
    lowest = best[:, k - 1] - 2 * rounding - MAX_DIFFERENCE
    unseen = ~found & (best <= (floor + 2 * rounding)[:, None])
    if not (found & (truth >= lowest[:, None]) | unseen).all():
        problems.append(f"only {figures['top_k_agreement']:.4f} of the top {k} agree")
    if said["has_ids"] != (ids is not None) or (ids is not None and not equal_ids(index, ids)):
        problems.append("its ids are not those given")
    if problems:
        raise VerificationError(f"the exported index does not match the model: {'; '.join(problems)}; nothing was kept")
    return figures


def _share(found: np.ndarray, truth: np.ndarray, kth: np.ndarray) -> float:
    """Share of places (nq, k) that hold an item whose true score reaches the true k-th best (nq,)."""
    return float((found & (truth >= kth[:, None] - MAX_DIFFERENCE)).mean())
