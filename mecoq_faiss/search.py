"""Search a bundle with images: what `mecoq-faiss search` does, and an application can do itself in four lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from .bundle import INDEX, ITEMS, read_manifest, read_paths, verify_files
from .config import K_RESULTS
from .encoder import load_encoder
from .indexfile import load_index
from .indexread import read_ids, without_ids


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # AQS, in [-M, M]
    row: int  # of items.h5
    path: str
    id: int  # what the index itself returns: the row, or the item's own id


def search(
    bundle: str | Path, images: Sequence[str | Path], k: int | None = None, *, device: str | torch.device = "auto"
) -> list[list[Hit]]:
    """The k best items of a bundle for each query image; by default 10, or all of a smaller bundle.

    Raises FileNotFoundError, UnreadableImage or ValueError, in one line, for a damaged bundle or image, or k out of
    range (1 to the number of items).
    """
    bundle = Path(bundle)
    items = read_manifest(bundle)["counts"]["items"]
    k = min(K_RESULTS, items) if k is None else k
    if not 1 <= k <= items:
        raise ValueError(f"k={k} is out of range: the bundle has {items} items, choose 1 to {items}")
    verify_files(bundle)
    index = load_index(bundle / INDEX)
    ids = read_ids(index)
    D, I = without_ids(index).search(load_encoder(bundle, device).encode(list(images)), k)
    found = I[I >= 0]  # an IVF index may find fewer than k
    paths = dict(zip(found.tolist(), read_paths(bundle / ITEMS, found), strict=True)) if found.size else {}
    return [
        [
            Hit(rank, float(score), i, paths[i], i if ids is None else int(ids[i]))
            for rank, (score, i) in enumerate(zip(scores, rows, strict=True), 1)
            if i >= 0
        ]
        for scores, rows in zip(D, I.tolist(), strict=True)
    ]
