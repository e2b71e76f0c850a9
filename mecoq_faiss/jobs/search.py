"""Search a bundle once with images or features: what `mecoq-faiss search` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.generation import Hit
from mecoq_faiss.bundle.opened import open_bundle
from mecoq_faiss.data.features import FEATURE_TYPES, open_features


def query_names(queries: Sequence[str | Path]) -> list[str]:
    """What to call each query: an image by its path, a row of a file of features FILE:ROW, rows from 0."""
    names = []
    for path in map(Path, queries):
        rows = len(open_features(path, str(path))) if path.suffix.lower() in FEATURE_TYPES else None
        names += [str(path)] if rows is None else [f"{path}:{row}" for row in range(rows)]
    return names


def search(
    bundle: str | Path,
    images: str | Path | Sequence[str | Path],
    k: int | None = None,
    *,
    where: ArrayLike | str | None = None,
    device: str | torch.device = "auto",
) -> list[list[Hit]]:
    """The k best items of a bundle for each query. To search more than once, `open_bundle` opens it once.

    Args:
        bundle: its folder.
        images: image files; for a model of features .npy or .h5 files, every row of which is a query.
        k: results a query; by default 10, or all of a smaller bundle.
        where: which items may be found, a condition or ids: see `Bundle.search`.
        device: where the encoder runs.

    Returns:
        For each image, or each row of the files in turn, its hits, best first.

    Raises FileNotFoundError, UnreadableImage or ValueError, in one line, for a damaged bundle or query, k out of
    range (1 to the number of items) or a condition that is none.

    Example:
        >>> from mecoq_faiss import search
        >>> [hits] = search("bundle", ["query.png"], k=5)
        >>> hits[0].path == search("bundle", ["query.png"], k=1)[0][0].path
        True
    """
    with open_bundle(bundle, device) as opened:
        return opened.search(images, k, where=where)
