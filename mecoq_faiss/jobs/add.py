"""The whole job of adding single images, or some rows of features, to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.bundle.living import follow
from mecoq_faiss.data.features import FEATURE_TYPES, row_names
from mecoq_faiss.data.sources import Source, open_images, open_source


def add(
    bundle: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    root: str | Path | None = None,
    metadata: str | Path | None = None,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Add image files or features to a bundle; what it has under the same path is replaced where the content differs.

    Everything else is as in an update of the whole collection: new ids, one atomic step, continued when stopped.

    Args:
        bundle: its folder.
        images: image files; for a model of features one .npy or .h5 file, whose rows have paths (in the .h5, or in the
            table beside the .npy).
        root: the collection's folder, in which they lie: their paths are kept relative to it, and where the collection
            has classes, their first folder is their class. By default paths are kept as they are given.
        metadata: a .csv, .parquet or .jsonl file of further columns, joined by its column `path` or `id`, or an .h5 of
            features; what an item had before is replaced (extra: metadata). By default those of the table beside a .npy
            of features.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        `added`, `altered`, `unchanged`, `unreadable`, `items` and what else `update` tells.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.

    Example:
        >>> from mecoq_faiss import add
        >>> add("bundle-living", ["query.png"])["items"]
        21
    """
    paths = [images] if isinstance(images, str | Path) else list(images)
    features = len(paths) == 1 and Path(paths[0]).suffix.lower() in FEATURE_TYPES
    source = _features(paths[0], root) if features else open_images(paths, root)
    return follow(Path(bundle), source, whole=False, metadata=metadata, workers=workers, device=device)


def _features(path: str | Path, root: str | Path | None) -> Source:
    """A file of features whose rows have paths of their own, which their numbers are not."""
    if root is not None:
        raise ValueError(f"{path} holds features, whose paths are in it: leave --root out")
    source = open_source(Path(path), "database")
    if source.paths == row_names(len(source)):
        raise ValueError(f"{path}: its rows have no paths, by which items are known: give paths in an .h5, or a table")
    return source
