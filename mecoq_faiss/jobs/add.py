"""The whole job of adding single images to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.bundle.living import follow
from mecoq_faiss.data.sources import open_images


def add(
    bundle: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    root: str | Path | None = None,
    metadata: str | Path | None = None,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Add image files to a bundle; what it has under the same path is replaced where the content differs.

    Everything else is as in an update of the whole collection: new ids, one atomic step, continued when stopped.

    Args:
        bundle: its folder, of a model of images.
        images: image files.
        root: the collection's folder, in which they lie: their paths are kept relative to it, and where the collection
            has classes, their first folder is their class. By default paths are kept as they are given.
        metadata: a .csv, .parquet or .jsonl file of further columns, joined by its column `path` or `id`; what an item
            had before is replaced (extra: metadata).
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
    return follow(
        Path(bundle), open_images(paths, root), whole=False, metadata=metadata, workers=workers, device=device
    )
