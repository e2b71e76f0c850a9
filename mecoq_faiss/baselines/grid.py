"""The settings worth trying at a number of bytes: what a FAISS user could pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mecoq_faiss.baselines.baseline import (
    METHODS,
    METRICS,
    NBITS,
    PREPROCESSES,
    RABITQ_BYTES,
    REDUCES,
    Baseline,
    Method,
    Preprocess,
)
from mecoq_faiss.baselines.codes import ADDITIVE, SPLITS

WIDTHS = (32, 64, 128)
QUICK_WIDTHS = (64,)
QUICK_PREPROCESSES: tuple[Preprocess, ...] = ("raw", "centred+normalised", "standardised+normalised")
QUICK_GIVEN: tuple[Preprocess, ...] = ("raw", "normalised", "centred+normalised")  # where a metric is given


EXACT: dict[str, Baseline] = {
    "aqs": Baseline("Flat", preprocess="centred+normalised", metric="IP"),
    "cosine": Baseline("Flat", preprocess="normalised", metric="IP"),
    "ip": Baseline("Flat", metric="IP"),
    "l2": Baseline("Flat", metric="L2"),
}
"""By a model's metric: the search whose first results are the exact neighbors."""


def grid(
    num_bytes: int, dim: int, *, widths: Sequence[int] | None = None, quick: bool = False, metric: str = "aqs"
) -> list[Baseline]:
    """Every setting tried at `num_bytes` bytes a vector for features of `dim` dimensions, Flat included.

    `widths` of OPQ and of principal components (32, 64 and 128) are rounded up to what the sub-quantizers divide, and
    those above `dim` are left out; where that is all of them, `dim` takes their place. Left out too, since it differs
    in name only or hardly can win:

    - OPQ and principal components of raw features: both centre them themselves.
    - Random rotation before RQ and LSQ, which do not notice it.
    - Additive codes of normalised features by L2, where a byte would hold a norm that is 1; reduced ones by L2.
    - PRQ and PLSQ where the codebooks do not divide into two halves (8-bit codes by L2, of an even number of bytes).
    - RaBitQ up to 8 bytes, which its factors fill.

    `quick` has fewer preprocessings, and one width; which they are follows from the model's `metric`.
    """
    preprocesses = PREPROCESSES
    if quick:
        preprocesses = QUICK_PREPROCESSES if metric == "aqs" else QUICK_GIVEN
    widths = (QUICK_WIDTHS if quick else WIDTHS) if widths is None else widths
    widths = [width for width in widths if width <= dim] or [dim]
    settings = []
    for preprocess in preprocesses:
        for metric in METRICS:
            settings.append(Baseline("Flat", preprocess=preprocess, metric=metric))
            for nbits in NBITS:
                pq = Baseline("PQ", num_bytes, nbits, preprocess, metric)
                settings += [pq, *_of_pq(pq, widths, dim)]
        for method in (m for m in METHODS if m in ADDITIVE):
            settings += _additive(method, num_bytes, preprocess, widths)
        settings += [Baseline("LSH", num_bytes, preprocess=preprocess)]
        settings += [Baseline("ITQ", num_bytes, preprocess=preprocess)] if 8 * num_bytes <= dim else []
        bits = 8 * (num_bytes - RABITQ_BYTES)
        if 0 < bits <= dim and preprocess != "raw":
            rabitq = Baseline("RaBitQ", num_bytes, 8, preprocess, "L2", "PCAR", bits)
            settings += [replace(rabitq, metric=metric) for metric in METRICS]
    return sorted(settings, key=lambda setting: METHODS.index(setting.method))


def _of_pq(pq: Baseline, widths: Sequence[int], dim: int) -> list[Baseline]:
    """OPQ, and PQ of principal components."""
    if pq.preprocess == "raw":
        return []
    rounded = sorted({-(-width // pq.M) * pq.M for width in widths})
    opq = [replace(pq, method="OPQ", width=width) for width in rounded]
    return opq + [replace(pq, reduce=r, width=width) for r in REDUCES[1:] for width in rounded if width <= dim]


def _additive(method: Method, num_bytes: int, preprocess: Preprocess, widths: Sequence[int]) -> list[Baseline]:
    normalised = "normalised" in preprocess
    settings = []
    for nbits in NBITS:
        for metric in METRICS:
            codes = 8 * (num_bytes - (metric == "L2")) // nbits
            halves = method in ("PRQ", "PLSQ")
            if codes < 1 or (halves and codes % SPLITS) or (normalised and metric == "L2"):
                continue
            plain = Baseline(method, num_bytes, nbits, preprocess, metric)
            settings.append(plain)
            if normalised and not halves:
                settings += [replace(plain, reduce=r, width=w) for r in ("PCA", "PCAW") for w in widths]
    return settings
