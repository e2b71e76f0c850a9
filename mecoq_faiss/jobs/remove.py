"""The whole job of removing single items from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

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
    if (ids is None) == (paths is None):
        raise ValueError("give either ids or paths of what is to be removed, one of the two")
    if paths is not None:
        return drop(Path(bundle), paths=paths, device=device)
    wanted = np.asarray(ids)
    if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
        raise ValueError(f"ids are of shape {wanted.shape}, {wanted.dtype}: give (m,) integers")
    return drop(Path(bundle), wanted.astype(np.int64), device=device)
