"""Whether the parts of an index that was read from a file fit one another, so that a search of it is safe."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.inspect import layers_of, pq_core

FASTSCAN_BLOCKS = (32, 64, 96, 128)  # codes


def check_consistent(index: faiss.Index) -> None:
    """ValueError, in one line, for an index whose sizes contradict each other; of the kinds that `build_index` makes.

    Its positions must be 0 to n - 1, each once: of inverted lists every stored one is looked at.
    """
    core, layers = pq_core(index), list(layers_of(index))
    wrappers = layers[1:-1] if isinstance(layers[0], faiss.IndexIDMap) else layers[:-1]
    if len(wrappers) > 1 or not all(isinstance(wrapper, faiss.IndexRefine) for wrapper in wrappers):
        raise ValueError(f"it is wrapped in {', '.join(type(layer).__name__ for layer in layers[:-1])}")
    for layer in layers:
        if not layer.is_trained:
            raise ValueError(f"{type(layer).__name__} is not trained")
        if (layer.d, layer.ntotal, layer.metric_type) != (index.d, index.ntotal, index.metric_type):
            raise ValueError(f"{type(layer).__name__} has d={layer.d}, n={layer.ntotal}, the index {_sizes(index)}")
        if isinstance(layer, faiss.IndexIDMap) and layer.id_map.size() != index.ntotal:
            raise ValueError(f"it has {layer.id_map.size()} ids for {index.ntotal} codes")
        if isinstance(layer, faiss.IndexRefine):
            exact: Any = faiss.downcast_index(layer.refine_index)
            if not isinstance(exact, faiss.IndexPQ) or (exact.d, exact.ntotal) != (index.d, index.ntotal):
                raise ValueError(f"its exact codes are {type(exact).__name__} of {_sizes(exact)}, not {_sizes(index)}")
            if not exact.is_trained:
                raise ValueError("its exact codes are not trained")
            _check_pq(exact)
            _check_flat(exact)
    _check_pq(core)
    if isinstance(core, faiss.IndexIVF):
        _check_lists(core)
    else:
        _check_flat(core)


def _sizes(index: Any) -> str:
    return f"d={index.d}, n={index.ntotal}"


def _check_pq(index: Any) -> None:
    pq = index.pq
    if not np.isfinite(faiss.vector_to_array(pq.centroids)).all():
        raise ValueError("its codebooks hold NaN or infinite values")
    if pq.M * pq.dsub != index.d or pq.ksub != 1 << pq.nbits or pq.centroids.size() != pq.ksub * index.d:
        raise ValueError(f"its codebooks are {pq.M} of {pq.ksub} codewords of {pq.dsub} values, for d={index.d}")


def _check_fastscan(index: Any) -> None:
    found = index.M, index.nbits, index.ksub, index.M2, index.code_size
    M = index.pq.M
    if found != (M, 4, 16, M + M % 2, -(-M // 2)) or index.bbs not in FASTSCAN_BLOCKS:
        raise ValueError(f"its blocks are of {index.bbs} codes, {found} of M={M}")
    methods = index.implem, index.qbs, getattr(index, "qbs2", 0)
    if methods != (0, 0, 0):
        raise ValueError(f"it searches by FAISS's methods {methods}, which are for tests")


def _check_flat(index: Any) -> None:
    method = getattr(index, "search_type", 0)  # 0 is IndexPQ's own scan; others rank by Hamming distance
    if isinstance(index, faiss.IndexPQ):
        if (method, index.code_size) != (0, index.pq.code_size):
            raise ValueError(f"it searches by FAISS's method {method} in codes of {index.code_size} bytes")
        expected = index.ntotal * index.code_size
    else:
        _check_fastscan(index)
        if index.ntotal2 != -(-index.ntotal // index.bbs) * index.bbs:
            raise ValueError(f"its blocks hold {index.ntotal2} codes for {index.ntotal}")
        expected = index.ntotal2 * index.M2 // 2
    if index.codes.size() != expected:
        raise ValueError(f"its codes take {index.codes.size():,} bytes, {index.ntotal} of them {expected:,}")


def _check_lists(core: Any) -> None:
    lists, quantizer = faiss.downcast_InvertedLists(core.invlists), faiss.downcast_index(core.quantizer)
    if not core.nlist == quantizer.ntotal == lists.nlist or not 1 <= core.nprobe <= core.nlist:
        raise ValueError(f"it visits {core.nprobe} of {lists.nlist} lists, with {quantizer.ntotal} centroids")
    flat = isinstance(quantizer, faiss.IndexFlat) and quantizer.codes.size() == 4 * core.nlist * core.d
    if not flat or (quantizer.d, quantizer.metric_type, quantizer.is_trained) != (core.d, core.metric_type, True):
        raise ValueError(f"its centroids are {type(quantizer).__name__} of {_sizes(quantizer)}")
    sizes = [lists.list_size(number) for number in range(core.nlist)]
    if sum(sizes) != core.ntotal:
        raise ValueError(f"its lists hold {sum(sizes)} codes of {core.ntotal}")
    _check_codes_of_lists(core, lists)
    seen = np.zeros(core.ntotal, bool)
    for number, size in enumerate(sizes):
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= core.ntotal:
                raise ValueError(f"list {number} has positions {ids.min()} to {ids.max()} of {core.ntotal} codes")
            seen[ids] = True
    if not seen.all():
        raise ValueError(f"its lists hold {int(seen.sum())} different codes of {core.ntotal}")


def _check_codes_of_lists(core: Any, lists: Any) -> None:
    if isinstance(core, faiss.IndexIVFPQ):
        right = isinstance(lists, faiss.ArrayInvertedLists) and lists.code_size == core.code_size == core.pq.code_size
    else:
        _check_fastscan(core)
        block = core.bbs, core.bbs * core.M2 // 2
        right = type(lists).__name__ == "BlockInvertedLists" and (lists.n_per_block, lists.block_size) == block
    if not right:
        raise ValueError(f"its {type(lists).__name__} are not of its codes of {core.pq.code_size} bytes")
