"""Codes without deep learning: PQ, OPQ, ITQ, LSH and uncompressed vectors, fitted to features.

Each is a plain FAISS chain of vector transforms and a code, so what is measured is what can be deployed.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.data.features import STD_FLOOR
from mecoq_faiss.evaluation.ranking import search

Array = NDArray[Any]
Method = Literal["PQ", "OPQ", "ITQ", "LSH", "Flat"]
Preprocess = Literal["raw", "centred", "normalised", "centred+normalised", "standardised", "standardised+normalised"]
Metric = Literal["L2", "IP"]

METHODS: tuple[Method, ...] = get_args(Method)
PREPROCESSES: tuple[Preprocess, ...] = get_args(Preprocess)
METRICS: tuple[Metric, ...] = get_args(Metric)
HASHING: tuple[Method, ...] = ("ITQ", "LSH")
NBITS = (8, 4)


@dataclass(frozen=True)
class Baseline:
    """One setting of one method.

    Attributes:
        method: PQ and OPQ (asymmetric distances), ITQ and LSH (one bit a dimension, Hamming distances), or Flat.
        num_bytes: bytes a vector; 0 for Flat, which keeps float32.
        nbits: bits a sub-quantizer of PQ and OPQ, 8 or 4; M = 8 * num_bytes / nbits.
        preprocess: what is done to features first; mean and deviation are the training features', normalised means to
            norm 1.
        metric: L2 or IP (inner product) of PQ, OPQ and Flat. Hashing has only the Hamming distance.
        opq_width: OPQ's output dimension, a multiple of M; None: the features' width. Where M does not divide the
            features' width, PQ pads it with zeros to the next multiple, which changes no distance, and so does None.

    Raises:
        ValueError: for a setting that its method does not have.
    """

    method: Method
    num_bytes: int = 0
    nbits: int = 8
    preprocess: Preprocess = "raw"
    metric: Metric = "L2"
    opq_width: int | None = None

    def __post_init__(self) -> None:
        choices = {"method": METHODS, "nbits": NBITS, "preprocess": PREPROCESSES, "metric": METRICS}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: choose one of {allowed}")
        if (self.num_bytes == 0) != (self.method == "Flat") or self.num_bytes < 0:
            raise ValueError(f"num_bytes={self.num_bytes} for {self.method}: give 0 for Flat, at least 1 for a code")
        if self.method in HASHING and self.metric != "L2":
            raise ValueError(f"metric={self.metric!r} for {self.method}: leave it out, hashing has Hamming distances")
        if self.opq_width is not None and (self.method != "OPQ" or self.opq_width < 1 or self.opq_width % self.M):
            raise ValueError(f"opq_width={self.opq_width} for {self.method}: only OPQ has it, a multiple of M={self.M}")

    @property
    def M(self) -> int:
        """Sub-quantizers of PQ and OPQ."""
        return 8 * self.num_bytes // self.nbits

    @property
    def min_rows(self) -> int:
        """Training rows that `fit` needs."""
        return {"PQ": 2**self.nbits, "OPQ": 2**self.nbits, "ITQ": 8 * self.num_bytes}.get(self.method, 1)

    @property
    def name(self) -> str:
        """Such as `OPQ 4x8 to 64, centred, IP`, `ITQ 32 bits, raw` or `Flat, centred, L2`."""
        if self.method in HASHING:
            return f"{self.method} {8 * self.num_bytes} bits, {self.preprocess}"
        code = f" {self.M}x{self.nbits}" if self.num_bytes else ""
        width = f" to {self.opq_width}" if self.opq_width else ""
        return f"{self.method}{code}{width}, {self.preprocess}, {self.metric}"

    def fit(self, xt: Array, seed: int = 0) -> "FittedBaseline":
        """Train on features.

        Args:
            xt: (nt, F) features; nt at least 2**nbits for PQ and OPQ, and the number of bits for ITQ.
            seed: of k-means and of the first rotation. The same seed gives the same codes; for OPQ and ITQ on one
                thread only, since LAPACK's decompositions are not reproducible on several.

        Raises:
            ValueError: for features that are not finite or too few, or more ITQ bits than features are wide.
        """
        xt = finite_features(xt)
        nt, F = xt.shape
        bits = 8 * self.num_bytes
        if nt < self.min_rows:
            raise ValueError(f"{self.name} needs {self.min_rows} training rows, got {nt}: give more, or fewer bits")
        if self.method == "ITQ" and bits > F:
            raise ValueError(f"{self.name} of {F}-dimensional features: at most one bit a dimension, use fewer bytes")

        chain: list[Any] = []
        if "centred" in self.preprocess:
            chain.append(faiss.CenteringTransform(F))
        if "standardised" in self.preprocess:
            chain.append(_standardize(xt))
        if "normalised" in self.preprocess:
            chain.append(faiss.NormalizationTransform(F, 2.0))
        code: Any
        if self.method == "Flat":
            code = faiss.IndexFlat(F, self._faiss_metric)
        elif self.method in HASHING:
            code = faiss.IndexLSH(bits, bits, False, False)
            chain.append(_hash_transform(self.method, F, bits, seed))
        else:
            width = self.opq_width or -(-F // self.M) * self.M
            code = faiss.IndexPQ(width, self.M, self.nbits, self._faiss_metric)
            _seed_kmeans(code.pq, seed)
            if self.method == "OPQ":
                chain.append(_opq_transform(F, code.pq, seed))
            elif width != F:
                chain.append(_zero_pad(F, width))
        index: Any = faiss.IndexPreTransform(code)
        for transform in reversed(chain):
            index.prepend_transform(transform)
        index.train(xt)
        return FittedBaseline(self, index)

    @property
    def _faiss_metric(self) -> int:
        return int(faiss.METRIC_INNER_PRODUCT if self.metric == "IP" else faiss.METRIC_L2)


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

    def transform_queries(self, xq: Array) -> Array:
        """Queries as `index.search` takes them: the features themselves, or for hashing uint8 (nq, num_bytes)."""
        xq = finite_features(xq)
        return self.trained.sa_encode(xq) if self.baseline.method in HASHING else xq

    def search(self, index: Any, xq: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
        """(D, I), each (nq, k), of features xq (nq, F); D is non-increasing: distances are negated."""
        return search(index, self.transform_queries(xq), k)

    def with_metric(self, metric: Metric) -> "FittedBaseline":
        """The same codes under the other metric: training takes no notice of it."""
        baseline = replace(self.baseline, metric=metric)
        trained = _copy(self.trained)
        trained.metric_type = faiss.downcast_index(trained.index).metric_type = baseline._faiss_metric
        return FittedBaseline(baseline, trained)


def finite_features(x: Array) -> Array:
    """Features as FAISS takes them, float32 (n, F); raises ValueError for another shape, NaN or infinite values."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"features {x.shape}: want (n, F), finite: look for NaN, infinite or missing rows")
    return x


def _standardize(xt: Array) -> Any:
    """Zero mean and unit variance of each feature, as the learned model standardises them."""
    std = xt.std(axis=0)
    scale = 1 / np.maximum(std, max(STD_FLOOR * std.mean(), 1e-6))
    transform: Any = faiss.LinearTransform(xt.shape[1], xt.shape[1], True)
    faiss.copy_array_to_vector(np.diag(scale).astype(np.float32).ravel(), transform.A)
    faiss.copy_array_to_vector((-xt.mean(axis=0) * scale).astype(np.float32), transform.b)
    transform.is_trained = True
    return transform


def _seed_kmeans(pq: Any, seed: int) -> None:
    pq.cp.seed = seed
    pq.cp.min_points_per_centroid = 1  # FAISS warns below 39; the caller chose the training set


def _opq_transform(F: int, pq: Any, seed: int) -> Any:
    """An OPQ rotation that optimises the very code it feeds (FAISS would assume 8 bits), from a seeded first guess."""
    opq: Any = faiss.OPQMatrix(F, pq.M, pq.d)
    first = faiss.RandomRotationMatrix(max(F, pq.d), pq.d)
    first.init(seed)
    opq.A = first.A
    rehearsal = faiss.ProductQuantizer(pq.d, pq.M, pq.nbits)
    _seed_kmeans(rehearsal, seed)
    opq.pq = rehearsal
    opq.referenced_objects = [rehearsal]  # FAISS keeps a bare pointer
    return opq


def _zero_pad(F: int, width: int) -> Any:
    source = np.full(width, -1, dtype=np.int32)  # -1: a zero
    source[:F] = np.arange(F)
    return faiss.RemapDimensionsTransform(F, width, faiss.swig_ptr(source))


def _copy(index: Any) -> Any:
    return faiss.deserialize_index(faiss.serialize_index(index))  # clone_index does not know CenteringTransform


def _hash_transform(method: str, F: int, bits: int, seed: int) -> Any:
    if method == "LSH":
        rotation = faiss.RandomRotationMatrix(F, bits)
        rotation.init(seed)
        return rotation
    itq = faiss.ITQTransform(F, bits, True)
    itq.itq.seed = seed
    return itq
