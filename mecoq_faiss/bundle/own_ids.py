"""The ids that the items of a new bundle get in its index, in place of rows."""

from __future__ import annotations

import numpy as np

from mecoq_faiss.index import check_ids

AUTO = "auto"  # the ids that items have anyway


def ids_of_items(given: np.ndarray | str | None, own: np.ndarray, by_source: bool) -> np.ndarray | None:
    """The ids (n,) int64 of the items that an index gets, None for rows.

    Args:
        given: `AUTO`, or an id for each code, or for each row of the source, as `by_source` says.
        own: (n,) int64, the ids that the items have anyway: at first their rows of the source.
        by_source: whether there are items without a code, which could not be read.
    """
    if isinstance(given, str):
        check_ids(own, len(own))
        return own
    return given if given is None or not by_source else given[own]
