"""What a FAISS index holds: its codebooks, its codes in the order they were added, and its description."""

from __future__ import annotations

import faiss
import numpy as np


def _core(index: faiss.Index) -> faiss.Index:
    """The product-quantized index under id maps, refiners and transforms."""
    index = faiss.downcast_index(index)
    while True:
        if isinstance(index, (faiss.IndexIDMap, faiss.IndexPreTransform)):
            index = faiss.downcast_index(index.index)
        elif isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.base_index)
        else:
            break
    if not hasattr(index, "pq"):
        raise ValueError(f"{type(index).__name__} holds no product quantizer: give an index written by build_index")
    return index


def read_codebooks(index: faiss.Index) -> np.ndarray:
    """The codebooks of any kind of index, (M, K, d) float32."""
    pq = _core(index).pq
    return faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)


def read_codes(index: faiss.Index) -> np.ndarray:
    core = _core(index)
    packed = faiss.vector_to_array(core.codes).reshape(core.ntotal, core.code_size)
    return faiss.unpack_bitstrings(packed, core.pq.M, core.pq.nbits)


def describe_index(index: faiss.Index) -> dict[str, object]:
    core = _core(index)
    return {"d": core.d, "M": core.pq.M, "nbits": core.pq.nbits, "n": index.ntotal}
