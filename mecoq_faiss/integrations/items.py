"""What other programs take of an open bundle: its items in the index's order, and an index of their own to add to."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.index import without_ids


def described_items(bundle: Bundle, needed: str = "path") -> list[dict[str, Any]]:
    """`id`, `path`, `label` (the class, where each item has one) and the metadata of every item, by row.

    ValueError where an item has nothing under the name `needed`.
    """
    with bundle.in_use() as generation:
        rows = np.arange(len(generation))
        ids, labels = generation.ids(rows).tolist(), generation.labels(rows)
        metadata = generation.metadata(ids)
        items = []
        for id, path, label in zip(ids, generation.paths(rows), labels, strict=True):
            own = {"id": id, "path": path} if label is None else {"id": id, "path": path, "label": label}
            items.append(own | {name: value for name, value in metadata.get(id, {}).items() if value is not None})
            if needed not in items[-1]:
                raise ValueError(f"text={needed!r}: the item {path!r} has nothing there, it has {', '.join(items[-1])}")
        return items


def own_index(bundle: Bundle) -> faiss.Index:
    """A copy of the index, returning rows: what a program adds or removes leaves the bundle as it is."""
    with bundle.in_use() as generation:
        return faiss.deserialize_index(faiss.serialize_index(without_ids(generation.index)))
