"""The whole update job: a bundle becomes that of its collection as it is now, at the cost of what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.bundle.living import follow
from mecoq_faiss.data.sources import Source, as_source


def update(
    bundle: str | Path,
    data: str | Path | Source,
    *,
    dry_run: bool = False,
    compact: bool = False,
    metadata: str | Path | None = None,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Make a bundle that of its collection as it is now: encode what is new, remove what is gone.

    Images are compared by size and time of writing, and by content (SHA-256) where those differ; what was only renamed
    is not encoded again. Every item keeps its id, and no id is ever given twice. The new generation is made beside the
    bundle, proved like an export, and takes its place in one step; readers keep the one that they opened. Stopped at
    any point, the bundle is as it was, and the same call continues with what was encoded.

    Args:
        bundle: its folder.
        data: the collection as it is now, a source or its name; of a built-in protocol, the database.
        dry_run: only tell what would change.
        compact: write all items into one file; otherwise that happens when a fourth of them has changed.
        metadata: a .csv, .parquet or .jsonl file of further columns, joined by its column `path` or `id`, or an .h5 of
            features; what an item had before is replaced (extra: metadata). By default those of the table beside a .npy
            of features.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        `added`, `altered`, `removed`, `renamed`, `unchanged`, `without_hash` (unchanged by their path alone, in a
        bundle of an older version), `unreadable`, `items` (there are now). Where images were encoded also `drift`:
        whether they fit the codes, see `bundle.drift.drift_of`; not in a bundle that does not tell its items' errors.
        With `metadata` also `with_metadata`, how many items have some.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
        InUseError: another process changes the bundle.
        VerificationError: the new index does not match the model; the bundle is as it was.

    Example:
        >>> from mecoq_faiss import update
        >>> done = update("bundle-photos", "photos")
        >>> done["added"], done["removed"], done["unchanged"]
        (0, 0, 20)
    """
    source = as_source(data, "database")
    return follow(
        Path(bundle), source, whole=True, dry_run=dry_run, compact=compact, metadata=metadata, workers=workers,
        device=device,
    )  # fmt: skip
