"""The proof of an exported index: its search against the AQS that torch computes (Eq. 15-17)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .quantizer import SoftProductQuantizer

MAX_DIFFERENCE = 1e-4  # of scores in [-M, M], float32
K_CHECKED = 100
SCORES = 100_000_000  # about as many are computed for the proof
BLOCK = 1 << 18


class VerificationError(RuntimeError):
    """The written index does not compute what the model computes."""


@torch.inference_mode()
def aqs(quantizer: SoftProductQuantizer, xq: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Asymmetric quantized similarity (Eq. 16, 17): queries (nq, D), codes (n, M) -> (nq, n) float32."""
    table = quantizer.similarities(torch.from_numpy(xq))  # (nq, M, K)
    scores = np.empty((len(xq), len(codes)), np.float32)
    for start in range(0, len(codes), BLOCK):
        block = torch.from_numpy(codes[start : start + BLOCK].astype(np.int64))  # (b, M)
        picked = table.gather(2, block.T.expand(len(xq), -1, -1))  # (nq, M, b)
        scores[:, start : start + BLOCK] = picked.sum(dim=1).numpy()
    return scores


def verify(
    index: Any,
    index_codebooks: np.ndarray,
    quantizer: SoftProductQuantizer,
    codes: np.ndarray,
    xq: np.ndarray,
    re_encoded: tuple[np.ndarray, np.ndarray],
    *,
    exhaustive: bool,
) -> dict[str, Any]:
    """Compare a reloaded index with torch and return the figures; VerificationError where they do not agree.

    Args:
        index: the FAISS index, its positions (or ids) 0 to n - 1.
        index_codebooks: (M, K, d), read from it.
        quantizer: the model's.
        codes: (n, M) uint8 that were put into it.
        xq: queries (nq, D) float32, segment-normalised, that are not in the database.
        re_encoded: (rows, codes) of some images that were encoded a second time.
        exhaustive: the kind scans every code with exact tables: then the top k must agree entirely.
    """
    n, M = codes.shape
    k = min(K_CHECKED, n)
    xq = xq[: max(1, min(len(xq), SCORES // (n * M)))]
    D, I = index.search(xq, k)
    truth = aqs(quantizer, xq, codes)
    kth = -np.partition(-truth, k - 1, axis=1)[:, k - 1]  # (nq,) the true k-th score
    found = I >= 0
    found_truth = np.take_along_axis(truth, np.maximum(I, 0), axis=1)
    difference = float(np.abs(D - found_truth)[found].max(initial=0.0))
    agreement = float((found & (found_truth >= kth[:, None] - MAX_DIFFERENCE)).mean())
    rows, again = re_encoded
    figures = {
        "queries": len(xq),
        "k": k,
        "max_score_difference": difference,
        "top_k_agreement": agreement,
        "equal_codes": float((codes[rows] == again).mean()),
        "max_codeword_norm_error": float(np.abs(np.linalg.norm(index_codebooks, axis=-1) - 1).max()),
        "max_codebook_difference": float(
            np.abs(index_codebooks - quantizer.unit_codebooks().detach().cpu().numpy()).max()
        ),
    }
    problems = [
        f"{name} is {figures[name]:.3g}"
        for name in ("max_codeword_norm_error", "max_codebook_difference")
        if figures[name] > MAX_DIFFERENCE
    ]
    if figures["equal_codes"] < 0.99:
        problems.append(f"only {figures['equal_codes']:.3f} of the codes are the same when encoded again")
    if exhaustive and difference > MAX_DIFFERENCE:
        problems.append(f"scores differ by {difference:.3g}")
    if exhaustive and agreement < 1:
        problems.append(f"only {agreement:.4f} of the top {k} agree")
    if problems:
        raise VerificationError(f"the exported index does not match the model: {'; '.join(problems)}; nothing was kept")
    return figures
