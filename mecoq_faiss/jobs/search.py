"""Search a bundle with images or features: what `mecoq-faiss search` does, and an application can in four lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import INDEX, ITEMS, pinned, read_paths
from mecoq_faiss.config import K_RESULTS
from mecoq_faiss.data.features import FEATURE_TYPES, open_features
from mecoq_faiss.index.file import load_index
from mecoq_faiss.index.inspect import read_ids, without_ids


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # AQS, in [-M, M]
    row: int  # of items.h5
    path: str
    id: int  # what the index itself returns: the row, or the item's own id


def query_names(queries: Sequence[str | Path]) -> list[str]:
    """What to call each query: an image by its path, a row of a file of features FILE:ROW, rows from 0."""
    names = []
    for path in map(Path, queries):
        rows = len(open_features(path, str(path))) if path.suffix.lower() in FEATURE_TYPES else None
        names += [str(path)] if rows is None else [f"{path}:{row}" for row in range(rows)]
    return names


def search(
    bundle: str | Path, images: Sequence[str | Path], k: int | None = None, *, device: str | torch.device = "auto"
) -> list[list[Hit]]:
    """The k best items of a bundle for each query.

    Args:
        bundle: its folder.
        images: image files; for a model of features .npy or .h5 files, every row of which is a query.
        k: results a query; by default 10, or all of a smaller bundle.
        device: where the encoder runs.

    Returns:
        For each image, or each row of the files in turn, its hits, best first.

    Raises FileNotFoundError, UnreadableImage or ValueError, in one line, for a damaged bundle or query, or k out of
    range (1 to the number of items).
    """
    with pinned(bundle) as files:  # all of one export, although another may take its place meanwhile
        items = files.manifest["counts"]["items"]
        k = min(K_RESULTS, items) if k is None else k
        if not 1 <= k <= items:
            raise ValueError(f"k={k} is out of range: the bundle has {items} items, choose 1 to {items}")
        index = load_index(files.file(INDEX))
        ids = read_ids(index)
        D, I = without_ids(index).search(encoder_in(files, device).encode(list(images)), k)
        found = I[I >= 0]  # an IVF index may find fewer than k
        of_found = read_paths(files.file(ITEMS), found) if found.size else []
    paths = dict(zip(found.tolist(), of_found, strict=True))
    return [
        [
            Hit(rank, float(score), i, paths[i], i if ids is None else int(ids[i]))
            for rank, (score, i) in enumerate(zip(scores, rows, strict=True), 1)
            if i >= 0
        ]
        for scores, rows in zip(D, I.tolist(), strict=True)
    ]
