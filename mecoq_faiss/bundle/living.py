"""A bundle made to follow its collection: what changed is encoded or removed, and a new generation put in its place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.bundle.changes import Changes, find_changes
from mecoq_faiss.bundle.changing import Changing, changing
from mecoq_faiss.bundle.drift import drift_of
from mecoq_faiss.bundle.embedding import check_fits
from mecoq_faiss.bundle.encoded import encode_source
from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.rewrite import ENCODED, Edit, write_generation
from mecoq_faiss.bundle.rewrite_shards import write_generation_of_shards
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.given import Table, check_given
from mecoq_faiss.data.sources import Source
from mecoq_faiss.storage.files import sha256

logger = logging.getLogger("mecoq_faiss")
NOBODY, NO_PATHS = np.empty(0, np.int64), np.empty(0, object)


def follow(
    bundle: Path,
    source: Source,
    *,
    whole: bool,
    dry_run: bool = False,
    compact: bool = False,
    metadata: str | Path | None = None,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Encode what of a source is new to a bundle or altered; where it is the `whole` collection, remove what is gone.

    The other arguments, the result and the errors are those of `update`.
    """
    table = source.table if metadata is None else Table(Path(metadata))
    if table is not None:
        check_given(table)
    with changing(bundle) as before:
        items, manifest = before.items, before.manifest
        changes = find_changes(items, source, whole=whole)
        said: dict[str, Any] = changes.summary() | {"unreadable": 0, "items": len(items)}
        if dry_run:
            return said | {"items": len(items) - len(changes.gone) + len(changes.new)}
        new_table = table is not None and not _is_known(table, manifest)
        spread = any("segments" in files.manifest for files in before.shards)
        if not changes and not new_table and not (compact and spread):
            return said
        encoder = encoder_in(before.shards[0], device)
        check_fits(encoder, source)
        added = None
        if len(changes.new):
            added = before.work / ENCODED
            added.unlink(missing_ok=True)
            said["unreadable"] = len(changes.new) - _encode(encoder, source.subset(changes.new), added, workers)
            said["added"] = max(0, said["added"] - said["unreadable"])
            added = added if added.exists() else None
        drift = None
        if added is not None:
            first_new = manifest.get("first_new_id")
            drift = drift_of(encoder.codebooks, items, first_new, added, additive=encoder.is_additive)
        if drift is not None:
            said["drift"] = drift
        told = ("added", "altered", "removed", "renamed", "drift")
        done: dict[str, Any] = {name: said[name] for name in told if name in said}
        edit = Edit(
            gone=changes.gone, moved=changes.moved, moved_arrays=_places(source, changes), added=added,
            class_names=source.class_names, said=done, compact=compact, table=table,
        )  # fmt: skip
        paths = np.array([source.paths[row] for row in changes.new.tolist()], dtype=object)
        manifest = _rewritten(before, encoder, edit, paths)
    if drift is not None:
        logger.log(logging.WARNING if drift["retrain"] else logging.INFO, "%s", drift["evidence"])
    said["items"] = manifest["counts"]["items"]
    return said if table is None else said | {"with_metadata": manifest["metadata"]["rows"]}


def drop(
    bundle: Path,
    ids: np.ndarray = NOBODY,
    *,
    paths: Sequence[str] = (),
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Remove the items with these ids (m,) int64, as `Hit.id` of an index of own ids, or `ids` of items.h5, shows them.

    And those with these paths. Returns `removed` and `items`. ValueError for an id or a path that no item has; nothing
    is removed then.
    """
    with changing(bundle) as before:
        items = before.items
        named, missing = items.rows_at(paths)
        if missing:
            raise ValueError(f"{bundle} has no item {missing[0]!r}: give paths as search shows them")
        wanted = np.unique(np.asarray(ids, np.int64))
        rows = items.rows_of(wanted)
        if len(rows) < len(wanted):
            unknown = next(id for id in wanted.tolist() if not len(items.rows_of(np.array([id]))))
            raise ValueError(f"{bundle} has no item of id {unknown}: ids are those that a search shows")
        rows = np.union1d(rows, named).astype(np.int64)
        if not len(rows):
            return {"removed": 0, "items": len(items)}
        edit = Edit(gone=rows, moved=NOBODY, moved_arrays={}, added=None, class_names=(), said={"removed": len(rows)})
        manifest = _rewritten(before, encoder_in(before.shards[0], device), edit, NO_PATHS)
    return {"removed": len(rows), "items": manifest["counts"]["items"]}


def _rewritten(before: Changing, encoder: TorchEncoder, edit: Edit, paths: np.ndarray) -> dict[str, Any]:
    """The manifest of a bundle after a change; `paths` are those of the images that were to be encoded."""
    if "shards" in before.manifest:
        return write_generation_of_shards(before, encoder, edit, paths)
    return write_generation(before.work, before.shards[0], before.items, encoder, edit)


def _is_known(table: Table, manifest: dict[str, Any]) -> bool:
    """Whether a bundle's metadata are those of a sidecar as it is now."""
    said = manifest.get("metadata", {}).get("sidecar")
    return table.rows is not None and said is not None and said == sha256(table.path)


def _encode(encoder: TorchEncoder, new: Source, out: Path, workers: int) -> int:
    """Encode what is new; how many could be read."""
    try:
        return encode_source(encoder, new, out, embeddings=None, workers=workers)
    except ValueError as error:
        if "no readable image" not in str(error):
            raise
        return 0


def _places(source: Source, changes: Changes) -> dict[str, np.ndarray]:
    """What becomes of the items that were renamed: `paths`, `size`, `mtime_ns`, and labels where there are any."""
    rows = changes.moved_to.tolist()
    sizes = np.array([source.size_and_time(row) for row in rows], np.int64).reshape(-1, 2)
    paths = np.array([source.paths[row] for row in rows], dtype=object)
    places = {"paths": paths, "size": sizes[:, 0], "mtime_ns": sizes[:, 1]}
    return places if source.labels is None else places | {"labels": source.labels[changes.moved_to]}
