"""The codes themselves, trained on prepared features: PQ, OPQ, additive quantizers, RaBitQ, hashing, or none (Flat)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.baselines.chain import transformed
from mecoq_faiss.index.codes import unpack_codes

if TYPE_CHECKING:
    from mecoq_faiss.baselines.baseline import Baseline

Array = NDArray[Any]
ADDITIVE = {"RQ": "rq", "LSQ": "lsq", "PRQ": "prq", "PLSQ": "plsq"}  # where their FAISS index keeps the quantizer
SPLITS = 2  # of PRQ and PLSQ: halves of the vector, each with additive codes of its own
LSQ_ROWS, LSQ_ROUNDS = 10_000, 10  # its training is slow; FAISS's 25 rounds gain nothing beyond 10


def train_code(b: Baseline, x: Array, seed: int, effort: float = 1.0) -> tuple[list[Any], Any]:
    """(further transforms, index) of a setting, trained on prepared features x (n, F).

    Args:
        b: the setting.
        x: (n, F) what its chain made of the training features.
        seed: of k-means, of local search and of first rotations.
        effort: share of FAISS's iterations, in (0, 1].
    """
    F = x.shape[1]
    if b.method == "Flat":
        return [], faiss.IndexFlat(F, faiss_metric(b))
    if b.method in ("LSH", "ITQ"):
        bits = 8 * b.num_bytes
        transform = _hash_transform(b.method, F, bits, seed)
        transform.train(x)
        index: Any = faiss.IndexLSH(bits, bits, False, False)
        index.is_trained = True
        return [transform], index
    if b.method == "RaBitQ":
        index = faiss.IndexRaBitQ(F, faiss_metric(b))
        index.train(x)
        return [], index
    transforms: list[Any] = []
    parts = SPLITS if b.method in ("PRQ", "PLSQ") else 1 if b.method in ADDITIVE else b.M
    width = (b.width if b.method == "OPQ" else None) or -(-F // parts) * parts
    index = _additive(b, width, len(x), seed, effort) if b.method in ADDITIVE else faiss.IndexPQ(
        width, b.M, b.nbits, faiss_metric(b)
    )  # fmt: skip
    if b.method in ("PQ", "OPQ"):
        _seed_kmeans(index.pq.cp, seed, effort)
    if b.method == "OPQ":
        transforms.append(_opq_transform(F, index.pq, seed, effort))
        transforms[0].train(x)
    elif width != F:
        transforms.append(_zero_pad(F, width))
    if "LSQ" in b.method and len(x) > LSQ_ROWS:
        x = x[np.sort(np.random.default_rng(seed).choice(len(x), LSQ_ROWS, replace=False))]
    index.train(transformed(transforms, x))
    return transforms, index


def codes_of(b: Baseline, trained: Any, x: Array) -> Array | None:
    """Codes (n, M) uint8 of features x (n, F), one byte each; None for a method without codewords."""
    if b.method in ADDITIVE:
        quantizer = getattr(faiss.downcast_index(trained.index), ADDITIVE[b.method])
        packed = quantizer.compute_codes(transformed(_chain(trained), x))
    elif b.method in ("PQ", "OPQ"):
        packed = trained.sa_encode(x)
    else:
        return None
    return unpack_codes(np.ascontiguousarray(packed), 8 * b.num_bytes // b.nbits, b.nbits)[:, : b.M]  # no norms


def faiss_metric(b: Baseline) -> int:
    """FAISS's number of the setting's metric."""
    return int(faiss.METRIC_INNER_PRODUCT if b.metric == "IP" else faiss.METRIC_L2)


def _chain(trained: Any) -> list[Any]:
    return [faiss.downcast_VectorTransform(trained.chain.at(i)) for i in range(trained.chain.size())]


def _additive(b: Baseline, width: int, rows: int, seed: int, effort: float) -> Any:
    """FAISS's index of an additive quantizer, untrained: 8-bit codes plain, 4-bit ones in FastScan.

    By inner product all bytes are codes. By L2 one byte is the norm's: with 4-bit codes two more codebooks of norms.
    """
    local = "LSQ" in b.method
    kinds = faiss.AdditiveQuantizer
    if b.metric == "IP":
        norm = kinds.ST_LUT_nonorm
    else:
        norm = kinds.ST_norm_qint8 if b.nbits == 8 else kinds.ST_norm_lsq2x4 if local else kinds.ST_norm_rq2x4
    split = b.method in ("PRQ", "PLSQ")
    sizes = (SPLITS, b.M // SPLITS) if split else (b.M,)
    name = f"Index{'Product' if split else ''}{'LocalSearch' if local else 'Residual'}Quantizer"
    make = getattr(faiss, name + ("FastScan" if b.nbits == 4 else ""))
    index = make(width, *sizes, b.nbits, faiss_metric(b), norm)
    quantizer = getattr(index, ADDITIVE[b.method])
    for part in [quantizer.subquantizer(i) for i in range(SPLITS)] if split else [quantizer]:
        part = faiss.downcast_AdditiveQuantizer(part) if split else part  # type: ignore[attr-defined]
        if local:
            part.random_seed = seed
            part.train_iters = max(3, round(effort * LSQ_ROUNDS))
            part.train_ils_iters = max(2, round(effort * part.train_ils_iters))
            part.encode_ils_iters = max(3, round(effort * part.encode_ils_iters))
        else:
            _seed_kmeans(part.cp, seed, effort)
            part.cp.progressive_dim_steps = max(2, round(effort * part.cp.progressive_dim_steps))
            part.max_beam_size = max(1, round(effort * part.max_beam_size))
            if rows < part.d:  # k-means in more and more components begins with all of them
                part.train_type = faiss.ResidualQuantizer.Train_default
    return index


def _seed_kmeans(cp: Any, seed: int, effort: float) -> None:
    cp.seed = seed
    cp.niter = max(4, round(effort * cp.niter))
    cp.min_points_per_centroid = 1  # FAISS warns below 39; the caller chose the training set


def _opq_transform(F: int, pq: Any, seed: int, effort: float) -> Any:
    """An OPQ rotation that optimises the very code it feeds (FAISS would assume 8 bits), from a seeded first guess."""
    opq: Any = faiss.OPQMatrix(F, pq.M, pq.d)
    first = faiss.RandomRotationMatrix(max(F, pq.d), pq.d)
    first.init(seed)
    opq.A = first.A
    rehearsal = faiss.ProductQuantizer(pq.d, pq.M, pq.nbits)
    _seed_kmeans(rehearsal.cp, seed, effort)
    opq.pq = rehearsal
    opq.referenced_objects = [rehearsal]  # FAISS keeps a bare pointer
    opq.niter, opq.niter_pq_0 = max(5, round(effort * opq.niter)), max(5, round(effort * opq.niter_pq_0))
    return opq


def _zero_pad(F: int, width: int) -> Any:
    source = np.full(width, -1, dtype=np.int32)  # -1: a zero
    source[:F] = np.arange(F)
    return faiss.RemapDimensionsTransform(F, width, faiss.swig_ptr(source))


def _hash_transform(method: str, F: int, bits: int, seed: int) -> Any:
    if method == "LSH":
        rotation = faiss.RandomRotationMatrix(F, bits)
        rotation.init(seed)
        return rotation
    itq = faiss.ITQTransform(F, bits, True)
    itq.itq.seed = seed
    return itq
