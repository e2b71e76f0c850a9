"""One setting of a code without deep learning (PQ, OPQ, additive quantizers, RaBitQ, ITQ, LSH, Flat), and its fit.

Each is a plain FAISS chain of vector transforms and a code, so what is measured is what can be deployed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.baselines.chain import Chains, finite_features
from mecoq_faiss.baselines.codes import ADDITIVE, SPLITS, codes_of, faiss_metric, train_code
from mecoq_faiss.evaluation.ranking import search

Array = NDArray[Any]
Method = Literal["PQ", "OPQ", "RQ", "LSQ", "PRQ", "PLSQ", "RaBitQ", "ITQ", "LSH", "Flat"]
Preprocess = Literal["raw", "centred", "normalised", "centred+normalised", "standardised", "standardised+normalised"]
Metric = Literal["L2", "IP"]
Reduce = Literal["none", "PCA", "PCAR", "PCAW"]

METHODS: tuple[Method, ...] = get_args(Method)
PREPROCESSES: tuple[Preprocess, ...] = get_args(Preprocess)
METRICS: tuple[Metric, ...] = get_args(Metric)
REDUCES: tuple[Reduce, ...] = get_args(Reduce)
HASHING: tuple[Method, ...] = ("ITQ", "LSH")
REDUCIBLE: tuple[Method, ...] = ("PQ", "RQ", "LSQ", "RaBitQ")
METRIC_FREE: tuple[Method, ...] = ("PQ", "OPQ", "Flat")  # their training takes no notice of the metric
NBITS = (8, 4)
RABITQ_BYTES = 8  # of factors beside the bits of each vector


@dataclass(frozen=True)
class Baseline:
    """One setting of one method.

    Attributes:
        method: PQ and OPQ; the additive quantizers RQ, LSQ, PRQ and PLSQ (the last two on two halves of the vector);
            RaBitQ; ITQ and LSH (one bit a dimension, Hamming distances); or Flat.
        num_bytes: bytes a vector; 0 for Flat, which keeps float32.
        nbits: bits a code of PQ, OPQ and the additive quantizers, 8 or 4.
        preprocess: what is done to features first; mean and deviation are the training features', normalised means to
            norm 1.
        metric: L2 or IP (inner product). Hashing has only the Hamming distance. Of additive codes, L2 takes one byte
            for the norm; by IP there is none, and all are codes.
        reduce: principal components (PCA), rotated at random (PCAR) or whitened (PCAW), before PQ, RQ, LSQ or RaBitQ;
            normalised features are normalised again after it.
        width: the output dimension of `reduce`, or of OPQ's rotation (a multiple of M; None: the features' width).
            RaBitQ keeps a bit a dimension and 8 bytes, so that its width is 8 * (num_bytes - 8). Where M does not
            divide the features' width, PQ pads it with zeros to the next multiple, which changes no distance, and so
            does None.

    Raises:
        ValueError: for a setting that its method does not have.
    """

    method: Method
    num_bytes: int = 0
    nbits: int = 8
    preprocess: Preprocess = "raw"
    metric: Metric = "L2"
    reduce: Reduce = "none"
    width: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS, "nbits": NBITS, "preprocess": PREPROCESSES, "metric": METRICS, "reduce": REDUCES
        }  # fmt: skip
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: choose one of {allowed}")
        if (self.num_bytes == 0) != (self.method == "Flat") or self.num_bytes < 0:
            raise ValueError(f"num_bytes={self.num_bytes} for {self.method}: give 0 for Flat, at least 1 for a code")
        if self.method in HASHING and self.metric != "L2":
            raise ValueError(f"metric={self.metric!r} for {self.method}: leave it out, hashing has Hamming distances")
        self._check_codebooks()
        self._check_width()

    def _check_codebooks(self) -> None:
        if self.method in ADDITIVE and self.M < 1:
            raise ValueError(
                f"num_bytes={self.num_bytes} for {self.name}: L2 takes a byte for the norm, give 2 or more"
            )
        if self.method in ("PRQ", "PLSQ") and self.M % SPLITS:
            raise ValueError(f"{self.method} of M={self.M} codebooks: they must divide into {SPLITS} halves")

    def _check_width(self) -> None:
        reduces = self.reduce != "none"
        if reduces and (self.method not in REDUCIBLE or not self.width):
            raise ValueError(f"reduce={self.reduce!r} for {self.method}: only {REDUCIBLE} have it, with a width")
        if self.width is not None and (self.width < 1 or not (reduces or self.method == "OPQ")):
            raise ValueError(f"width={self.width} for {self.method}: only OPQ and reduced features have it, at least 1")
        if self.method in ("PQ", "OPQ") and self.width is not None and self.width % self.M:
            raise ValueError(f"width={self.width} for {self.method}: want a multiple of M={self.M}")
        fits = 8 * (self.num_bytes - RABITQ_BYTES)
        if self.method == "RaBitQ" and (not reduces or self.width != fits or fits < 1):
            raise ValueError(
                f"RaBitQ of {self.num_bytes} bytes and width={self.width}: want more than {RABITQ_BYTES} bytes, "
                f"and features reduced to 8 * (num_bytes - {RABITQ_BYTES}) = {fits}"
            )

    @property
    def M(self) -> int:
        """Sub-quantizers of PQ and OPQ, codebooks of an additive quantizer; without the byte of a norm."""
        norm = self.method in ADDITIVE and self.metric == "L2"
        return 8 * (self.num_bytes - norm) // self.nbits

    @property
    def min_rows(self) -> int:
        """Training rows that `fit` needs."""
        if self.method in HASHING:
            rows = 8 * self.num_bytes if self.method == "ITQ" else 1
        else:
            rows = 1 if self.method in ("RaBitQ", "Flat") else 2**self.nbits
        return max(rows, self.width or 1) if self.reduce != "none" else rows

    @property
    def name(self) -> str:
        """Such as `OPQ 4x8 to 64, centred, IP`, `RQ 4x8 of PCA64, normalised, IP` or `ITQ 32 bits, raw`."""
        if self.method in HASHING:
            return f"{self.method} {8 * self.num_bytes} bits, {self.preprocess}"
        code = "" if self.method in ("Flat", "RaBitQ") else f" {self.M}x{self.nbits}"
        if self.method in ("PRQ", "PLSQ"):
            code = f" {SPLITS}x{self.M // SPLITS}x{self.nbits}"
        norm = " and norm" if self.method in ADDITIVE and self.metric == "L2" else ""
        width = f" of {self.reduce}{self.width}" if self.reduce != "none" else f" to {self.width}" if self.width else ""
        return f"{self.method}{code}{norm}{width}, {self.preprocess}, {self.metric}"

    def fit(self, xt: Array | Chains, seed: int = 0, *, effort: float = 1.0) -> FittedBaseline:
        """Train on features.

        Args:
            xt: (nt, F) features, at least `min_rows`; or `Chains` of them, which several settings share.
            seed: of k-means, local search and the first rotation. The same seed gives the same codes; for OPQ, ITQ and
                reduced features on one thread only, since LAPACK's decompositions are not reproducible on several.
            effort: share of FAISS's iterations, in (0, 1]: less for a first look.

        Raises:
            ValueError: for features that are not finite or too few, or more bits or components than they are wide.
        """
        chains = xt if isinstance(xt, Chains) else Chains(xt)
        nt, F = chains.xt.shape
        if not 0 < effort <= 1:
            raise ValueError(f"effort={effort}: give a share of FAISS's iterations, above 0 and at most 1")
        if nt < self.min_rows:
            raise ValueError(f"{self.name} needs {self.min_rows} training rows, got {nt}: give more, or fewer bits")
        if self.method == "ITQ" and 8 * self.num_bytes > F:
            raise ValueError(f"{self.name} of {F}-dimensional features: at most one bit a dimension, use fewer bytes")
        if self.reduce != "none" and self.width and self.width > F:
            raise ValueError(f"{self.name} of {F}-dimensional features: there are no more components than that")
        transforms, x = chains.get(self.preprocess, self.reduce, self.width)
        more, code = train_code(self, x, seed, effort)
        index: Any = faiss.IndexPreTransform(code)
        for transform in reversed(transforms + more):
            index.prepend_transform(transform)
        index.is_trained = True
        return FittedBaseline(self, index)


@dataclass(frozen=True)
class FittedBaseline:
    """A trained baseline: builds indexes of features (n, F), and searches them."""

    baseline: Baseline
    trained: Any  # faiss.IndexPreTransform without vectors

    def index(self, xb: Array) -> Any:
        """The database's index: FAISS's `IndexPreTransform` of raw features, or for hashing `IndexBinaryFlat`."""
        xb = finite_features(xb)
        index: Any
        if self.baseline.method in HASHING:
            index = faiss.IndexBinaryFlat(8 * self.baseline.num_bytes)
            index.add(self.trained.sa_encode(xb))
        else:
            index = _copy(self.trained)
            index.add(xb)
        return index

    def codes(self, xb: Array) -> NDArray[np.uint8] | None:
        """Codes (n, M) of features xb (n, F), one byte each; None for RaBitQ, hashing and Flat: no codewords."""
        return codes_of(self.baseline, self.trained, finite_features(xb))

    def transform_queries(self, xq: Array) -> Array:
        """Queries as `index.search` takes them: the features themselves, or for hashing uint8 (nq, num_bytes)."""
        xq = finite_features(xq)
        return self.trained.sa_encode(xq) if self.baseline.method in HASHING else xq

    def search(self, index: Any, xq: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
        """(D, I), each (nq, k), of features xq (nq, F); D is non-increasing: distances are negated."""
        return search(index, self.transform_queries(xq), k)

    def with_metric(self, metric: Metric) -> FittedBaseline:
        """The same codes under the other metric, of PQ, OPQ and Flat: their training takes no notice of it."""
        if self.baseline.method not in METRIC_FREE:
            raise ValueError(f"{self.baseline.name}: only {METRIC_FREE} keep their codes under another metric")
        baseline = replace(self.baseline, metric=metric)
        trained = _copy(self.trained)
        trained.metric_type = faiss.downcast_index(trained.index).metric_type = faiss_metric(baseline)
        return FittedBaseline(baseline, trained)


def _copy(index: Any) -> Any:
    return faiss.deserialize_index(faiss.serialize_index(index))  # clone_index does not know CenteringTransform
