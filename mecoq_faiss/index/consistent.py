"""Whether the parts of an index that was read from a file fit one another, so that a search of it is safe."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.inspect import layers_of, pq_core


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
    if pq.M * pq.dsub != index.d or pq.ksub != 1 << pq.nbits or pq.centroids.size() != pq.ksub * index.d:
        raise ValueError(f"its codebooks are {pq.M} of {pq.ksub} codewords of {pq.dsub} values, for d={index.d}")


def _check_flat(index: Any) -> None:
    packer = index.get_CodePacker()
    expected = -(-index.ntotal // packer.nvec) * packer.block_size
    if index.codes.size() != expected:
        raise ValueError(f"its codes take {index.codes.size():,} bytes, {index.ntotal} of them {expected:,}")


def _check_lists(core: Any) -> None:
    lists, quantizer = core.invlists, core.quantizer
    if (
        not core.nlist == quantizer.ntotal == lists.nlist
        or (quantizer.d, quantizer.is_trained) != (core.d, True)
        or not 1 <= core.nprobe <= core.nlist
    ):
        raise ValueError(f"it visits {core.nprobe} of {lists.nlist} lists, with {quantizer.ntotal} centroids")
    sizes = [lists.list_size(number) for number in range(core.nlist)]
    if sum(sizes) != core.ntotal:
        raise ValueError(f"its lists hold {sum(sizes)} codes of {core.ntotal}")
    seen = np.zeros(core.ntotal, bool)
    for number, size in enumerate(sizes):
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= core.ntotal:
                raise ValueError(f"list {number} has positions {ids.min()} to {ids.max()} of {core.ntotal} codes")
            seen[ids] = True
    if not seen.all():
        raise ValueError(f"its lists hold {int(seen.sum())} different codes of {core.ntotal}")
