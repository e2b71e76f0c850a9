"""The index of an opened bundle, read and compared with what the bundle says of it."""

from __future__ import annotations

from contextlib import nullcontext

import faiss
import numpy as np

from mecoq_faiss.bundle.folder import INDEX, Pinned
from mecoq_faiss.bundle.items import Items, items_in
from mecoq_faiss.index.build import check_ids
from mecoq_faiss.index.consistent import check_consistent
from mecoq_faiss.index.file import load_index
from mecoq_faiss.index.inspect import describe_index, equal_ids

COMPARED = ("kind", "M", "nbits", "d", "nlist", "nprobe", "refine", "has_ids")  # of what the manifest says

MOST_REFINED = 1000  # k_factor: so many times k results are held in memory; FAISS 1.15 reads no more either


def index_in(files: Pinned, items: Items | None = None) -> faiss.Index:
    """The index of an opened bundle, on the CPU; of its `items`, where they are open.

    Raises ValueError, in one line, where it is damaged or is not the one that the manifest and the items describe.
    """
    index = load_index(files.file(INDEX))
    manifest, n = files.manifest, files.manifest["counts"]["items"]
    try:
        check_consistent(index)
        said = describe_index(index)
        for name, expected in {"n": n, "metric": "inner_product", **manifest}.items():
            if name in ("n", "metric", *COMPARED) and said[name] != expected:
                raise ValueError(f"its {name} is {said[name]}, the manifest says {expected}")
        if (said["refine"] or 1) > MOST_REFINED:
            raise ValueError(f"its k_factor is {said['refine']:g}")
        with nullcontext(items) if items is not None else items_in(files) as own:
            if len(own) != n:
                raise ValueError(f"there are {len(own)} items, the manifest says {n}")
            if said["has_ids"]:
                ids = own.lazy("ids")
                assert ids is not None
                if not equal_ids(index, ids):
                    raise ValueError("its ids are not those of the items")
                check_ids(np.asarray(ids), n)
    except ValueError as error:
        raise ValueError(f"{files.bundle / INDEX} does not fit its bundle ({error}): export it again") from error
    return index
