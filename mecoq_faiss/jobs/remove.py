"""The whole job of removing single items from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in, stored
from mecoq_faiss.bundle.living import drop


def remove(
    bundle: str | Path,
    ids: ArrayLike | None = None,
    *,
    paths: Sequence[str] | None = None,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Remove items from a bundle, by id or by path, in one atomic step.

    Args:
        bundle: its folder.
        ids: (m,) integers, the items' own ids (`ids` of items.h5; what an index of own ids returns).
        paths: in place of ids, the items' paths as the bundle has them.
        device: where the model runs for the proof: `auto`, `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        `removed` and `items`, how many there are now.

    Raises:
        ValueError: an id or a path that no item has; nothing is removed then. Or both given, or neither.
        FileNotFoundError: no bundle there.

    Example:
        >>> from mecoq_faiss import remove
        >>> remove("bundle-shrinking", paths=["0.png", "1.png"])
        {'removed': 2, 'items': 18}
    """
    bundle = Path(bundle)
    if (ids is None) == (paths is None):
        raise ValueError("give either ids or paths of what is to be removed, one of the two")
    if paths is not None:
        with pinned(bundle) as files:
            wanted_paths = {stored(path) for path in paths}
            id_of: dict[str, int] = {}
            with items_in(files) as items:
                own = items.column("ids")
                assert own is not None
                for rows, block in items.each_path():
                    here = zip(rows.tolist(), block, strict=True)
                    id_of |= {path: int(own[row]) for row, path in here if path in wanted_paths}
        missing = next((path for path in paths if stored(path) not in id_of), None)
        if missing is not None:
            raise ValueError(f"{bundle} has no item {missing!r}: give paths as search shows them")
        ids = [id_of[stored(path)] for path in paths]
    wanted = np.asarray(ids)
    if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
        raise ValueError(f"ids are of shape {wanted.shape}, {wanted.dtype}: give (m,) integers")
    return drop(bundle, wanted.astype(np.int64), device=device)
