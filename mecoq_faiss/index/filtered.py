"""A search among some of an index's vectors only, through FAISS's own selectors."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.index.inspect import without_refiner

FILTERED = ("ivfpq", "ivfpqfs", "gpu")  # of KINDS; FAISS 1.15's IndexPQ and IndexPQFastScan take no selector


def search_rows(index: faiss.Index, xq: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some positions, found in the lists that the index visits by itself.

    Args:
        index: one that returns positions (see `without_ids`), on the CPU.
        xq: queries (nq, d) float32.
        k: results a query.
        rows: the positions (m,) int64 that may be returned.

    Returns:
        (D, I) as `index.search` gives them; where fewer than k are found, the last I are -1.

    Raises:
        ValueError: the index is of a kind that FAISS does not search so.
    """
    outer: Any = faiss.downcast_index(index)
    inner: Any = faiss.downcast_index(without_refiner(outer))
    if not isinstance(inner, faiss.IndexIVF):
        raise ValueError(
            f"FAISS searches no {type(inner).__name__} among chosen ids only: "
            f"export the index as one of {', '.join(FILTERED)}"
        )
    selector = faiss.IDSelectorBatch(rows)
    # what the parameters do not say is not the index's own setting but a default
    params = faiss.SearchParametersIVF(  # type: ignore[call-arg]
        sel=selector, nprobe=inner.nprobe, max_codes=inner.max_codes
    )
    if isinstance(outer, faiss.IndexRefine):
        params = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg,assignment]
            k_factor=outer.k_factor, base_index_params=params
        )
    return index.search(xq, k, params=params)  # type: ignore[call-arg]
