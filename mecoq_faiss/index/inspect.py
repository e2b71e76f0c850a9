"""What a FAISS index holds: its codebooks, its codes in the order they were added, and its description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.codes import code_blocks, unpack_codes

NAMES = {"IndexPQ": "pq", "IndexPQFastScan": "pqfs", "IndexIVFPQ": "ivfpq", "IndexIVFPQFastScan": "ivfpqfs"}
METRICS = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "l2"}


def read_codebooks(index: faiss.Index) -> np.ndarray:
    """The codebooks of an index of any kind, (M, K, d) float32, through id maps, refiners and transforms.

    Raises:
        ValueError: an index without a product quantizer of whole vectors.
    """
    pq = pq_core(index).pq
    return faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)


def read_centroids(index: faiss.Index) -> np.ndarray | None:
    """The centroids (nlist, d) float32 of an index's lists, None where it has none."""
    core = pq_core(index)
    if not isinstance(core, faiss.IndexIVF):
        return None
    return faiss.downcast_index(core.quantizer).reconstruct_n(0, core.nlist)


def read_codes(index: faiss.Index) -> np.ndarray:
    """The codes of an index of any kind, (n, M) uint8, one byte a code, in the order they were added.

    Raises:
        ValueError: an index without a product quantizer of whole vectors.
    """
    core = pq_core(index)
    codes = np.empty((core.ntotal, core.pq.M), np.uint8)
    for rows, packed in _packed_codes(core):
        codes[rows] = unpack_codes(packed, core.pq.M, core.pq.nbits)
    return codes


def read_codes_at(index: faiss.Index, rows: np.ndarray) -> np.ndarray:
    """The codes (m, M) uint8 of some positions (m,) of an exhaustive index, without unpacking the others."""
    core = pq_core(index)
    packer = core.get_CodePacker()
    blocks, which = np.unique(rows // packer.nvec, return_inverse=True)
    whole = faiss.rev_swig_ptr(core.codes.data(), -(-core.ntotal // packer.nvec) * packer.block_size)
    picked = np.ascontiguousarray(whole.reshape(-1, packer.block_size)[blocks])
    packed = _rows(core, faiss.swig_ptr(picked), len(blocks) * packer.nvec)
    return unpack_codes(packed[which * packer.nvec + rows % packer.nvec], core.pq.M, core.pq.nbits)


def block_codes(core: Any, pointer: Any, n: int, first: int) -> np.ndarray:
    """The codes (n - first, M) uint8 from row `first` on, the first of a block, of the n codes packed at `pointer`."""
    packer = core.get_CodePacker()
    skipped = first // packer.nvec * packer.block_size
    count = -(-(n - first) // packer.nvec) * packer.block_size
    rest = faiss.rev_swig_ptr(pointer, skipped + count)[skipped:]
    if not len(rest):
        return np.empty((0, core.pq.M), np.uint8)
    return unpack_codes(_rows(core, faiss.swig_ptr(rest), n - first), core.pq.M, core.pq.nbits)


def read_ids(index: faiss.Index) -> np.ndarray | None:
    """The ids (n,) int64 that an index returns in place of positions, or None where it returns positions."""
    outer = faiss.downcast_index(index)
    return faiss.vector_to_array(outer.id_map) if isinstance(outer, faiss.IndexIDMap) else None


def equal_ids(index: faiss.Index, ids: Any) -> bool:
    """Whether an index returns these ids (n,) int64, an array or what gives arrays for slices; memory does not grow."""
    outer: Any = faiss.downcast_index(index)
    if not isinstance(outer, faiss.IndexIDMap) or outer.id_map.size() != len(ids):
        return False
    own = faiss.rev_swig_ptr(outer.id_map.data(), len(ids)) if len(ids) else np.empty(0, np.int64)
    return all(np.array_equal(own[start : start + len(block)], block) for start, block in code_blocks(ids))


def without_ids(index: faiss.Index) -> faiss.Index:
    """The same index returning positions 0 to n - 1 in place of its own ids. It is a part of `index`."""
    outer = faiss.downcast_index(index)
    if not isinstance(outer, faiss.IndexIDMap):
        return index
    inner: Any = faiss.downcast_index(outer.index)
    inner.referenced_objects = [index]  # or it would go when `index` does
    return inner


def without_refiner(index: faiss.Index) -> faiss.Index:
    """The same index without exact scoring of its best results. It is a part of `index`."""
    outer = faiss.downcast_index(index)
    if not isinstance(outer, faiss.IndexRefine):
        return index
    inner: Any = faiss.downcast_index(outer.base_index)
    inner.referenced_objects = [index]
    return inner


def make_reconstructable(index: faiss.Index) -> None:
    """Have `index.reconstruct` work in an IndexIVFPQ: 8 bytes an item that say where each lies.

    Not in IndexIVFPQFastScan: FAISS 1.15 ends the process where it is asked to reconstruct.
    """
    core = pq_core(index)
    if isinstance(core, faiss.IndexIVFPQ):
        core.make_direct_map()


def set_search_effort(index: faiss.Index, *, nprobe: int | None = None, k_factor: float | None = None) -> None:
    """How much of an index a search looks at: lists, candidates for each result that a refiner scores exactly."""
    if nprobe is not None:
        pq_core(index).nprobe = nprobe
    for layer in layers_of(index):
        if k_factor is not None and isinstance(layer, faiss.IndexRefine):
            layer.k_factor = k_factor


def describe_index(index: faiss.Index) -> dict[str, Any]:
    """Kind, sizes and search settings of an index, as plain values for a manifest.

    Keys: kind, d (of the whole vector), M, nbits, n, metric, nlist and nprobe (None without lists), refine (its
    k_factor, or None), bytes_per_code (of one copy of the codes), has_ids.

    Raises:
        ValueError: an index without a product quantizer of whole vectors.
    """
    core = pq_core(index)
    layers = list(layers_of(index))
    refine = next((layer.k_factor for layer in layers if isinstance(layer, faiss.IndexRefine)), None)
    is_ivf = isinstance(core, faiss.IndexIVF)
    return {
        "kind": "ivfpq-all" if is_ivf and core.by_residual else NAMES[type(core).__name__],
        "d": index.d,
        "M": core.pq.M,
        "nbits": core.pq.nbits,
        "n": index.ntotal,
        "metric": METRICS.get(index.metric_type, f"FAISS's number {index.metric_type}"),
        "nlist": core.nlist if is_ivf else None,
        "nprobe": core.nprobe if is_ivf else None,
        "refine": refine,
        "bytes_per_code": core.pq.code_size,
        "has_ids": any(isinstance(layer, faiss.IndexIDMap) for layer in layers),
    }


def layers_of(index: faiss.Index) -> Iterator[Any]:
    """An index and the ones it wraps, outermost first."""
    while True:
        index = faiss.downcast_index(index)
        yield index
        if isinstance(index, (faiss.IndexIDMap, faiss.IndexPreTransform)):
            index = index.index
        elif isinstance(index, faiss.IndexRefine):
            index = index.base_index
        else:
            return


def pq_core(index: faiss.Index) -> Any:
    """The product-quantized index at the bottom."""
    *_, core = layers_of(index)
    if type(core).__name__ not in NAMES:
        raise ValueError(f"{type(core).__name__} is no product-quantized index: give one that build_index can write")
    if isinstance(core, faiss.IndexIVF) and core.quantizer.ntotal != core.nlist:
        raise ValueError(f"the index has {core.nlist} lists and {core.quantizer.ntotal} centroids: export it again")
    if isinstance(core, faiss.IndexIVF) and core.by_residual and core.quantizer.reconstruct_n(0, core.nlist).any():
        raise ValueError("these codebooks quantize residuals, not whole vectors: build the index by_residual=False")
    return core


def _packed_codes(core: Any) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """An index piece by piece: rows (positions in the order of adding) and their packed codes (b, code_size)."""
    if not isinstance(core, faiss.IndexIVF):
        yield slice(0, core.ntotal), _rows(core, core.codes.data(), core.ntotal)
        return
    lists: Any = core.invlists
    for number in range(core.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            yield ids, _rows(core, lists.get_codes(number), size)


def _rows(core: Any, pointer: Any, n: int) -> np.ndarray:
    """The n packed codes at `pointer`, (n, code_size), out of FastScan's interleaved blocks where they are in such."""
    packer = core.get_CodePacker()
    count = -(-n // packer.nvec)
    blocks = faiss.rev_swig_ptr(pointer, count * packer.block_size).reshape(count, packer.block_size)
    if packer.nvec == 1:
        return blocks
    rows = np.empty((count, packer.nvec, packer.code_size), np.uint8)
    for block, row in zip(blocks, rows, strict=True):
        packer.unpack_all(faiss.swig_ptr(block), faiss.swig_ptr(row))
    return rows.reshape(-1, packer.code_size)[:n]
