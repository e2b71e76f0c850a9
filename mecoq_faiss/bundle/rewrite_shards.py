"""The next generation of a bundle in shards: what changes is made anew, shard by shard, and the rest linked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.built_shards import divide_metadata
from mecoq_faiss.bundle.changing import Changing
from mecoq_faiss.bundle.folder import METADATA, pinned, read_manifest, write_manifest
from mecoq_faiss.bundle.items import Items, items_in, items_of_all
from mecoq_faiss.bundle.metadata import Part, metadata_in
from mecoq_faiss.bundle.rewrite import MOST_HISTORY, NEXT, Edit, make_generation, put_in_place
from mecoq_faiss.bundle.sharded import link_all, write_sharded
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.given import Table
from mecoq_faiss.storage.shards import map_array


def write_generation_of_shards(
    before: Changing, encoder: TorchEncoder, edit: Edit, paths: np.ndarray
) -> dict[str, Any]:
    """The same as `write_generation` for a bundle in shards: only those are made anew in which something changes.

    What was altered or renamed stays in its shard, what is new comes into the one with the fewest items, and a shard of
    which nothing is left goes.

    Args:
        before: the bundle as it is.
        encoder: its.
        edit: what changes; rows are those of all items.
        paths: (s,) str, of the images that were to be encoded; the `ids` of `edit.added` are their numbers.
    """
    work, bundle, manifest, shards, items = before
    new = work / NEXT
    new.mkdir()
    starts = np.cumsum([0, *(files.manifest["counts"]["items"] for files in shards)])
    homes = np.empty(0, np.int64)
    if edit.added is not None:
        homes = _homes(items, starts, paths[map_array(edit.added, "ids")].tolist(), edit.gone)
    next_id = int(manifest["next_id"])
    for number, files in enumerate(shards):
        first, end = int(starts[number]), int(starts[number + 1])
        own = _own_part(edit, first, end, np.flatnonzero(homes == number), next_id)
        counts = own.said
        if counts["removed"] == files.manifest["counts"]["items"] and not counts["added"]:
            continue
        if not any(counts.values()) and not (edit.compact and "segments" in files.manifest):
            link_all(files, new / files.bundle.name)
            continue
        with items_in(files) as of_shard:
            made = make_generation(new / files.bundle.name, files, of_shard, encoder, own)
        next_id = max(next_id, made["next_id"])
    left = sum(read_manifest(folder)["counts"]["items"] for folder in new.iterdir())
    if not left:
        raise ValueError(f"nothing would be left in {bundle}: remove it instead, or export another collection")
    if edit.table is not None:
        _join_table(new, edit.table)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {name: manifest[name] for name in ("source", "created", "versions") if name in manifest}
    content |= {
        "updated": time,
        "next_id": next_id,
        "first_new_id": manifest.get("first_new_id", int(manifest["next_id"])),
        "history": [
            *manifest.get("history", [])[1 - MOST_HISTORY :],
            {"time": time, **edit.said, "items": left},
        ],
    }
    write_sharded(new, content)
    return put_in_place(work, bundle, manifest)


def _own_part(edit: Edit, start: int, end: int, new: np.ndarray, next_id: int) -> Edit:
    """What changes in the shard of the rows `start` to `end` - 1, into which the rows `new` (a,) of `added` come."""
    gone = edit.gone[(edit.gone >= start) & (edit.gone < end)] - start
    moved = (edit.moved >= start) & (edit.moved < end)
    return replace(
        edit,
        gone=gone,
        moved=edit.moved[moved] - start,
        moved_arrays={name: array[moved] for name, array in edit.moved_arrays.items()},
        added=edit.added if len(new) else None,
        rows=new,
        next_id=next_id,
        said={"removed": len(gone), "renamed": int(moved.sum()), "added": len(new)},
        table=None,  # joined with all
    )


def _homes(items: Items, starts: np.ndarray, paths: Sequence[str], gone: np.ndarray) -> np.ndarray:
    """The shard into which each new item comes, (a,): that of the item whose path it has, or the one with the fewest.

    Shard i has the rows `starts[i]` to `starts[i + 1]` - 1 of `items`, of which (g,) are `gone`.
    """
    homes = np.full(len(paths), -1)
    rows, which = items.find(paths)
    homes[which] = np.searchsorted(starts, rows, side="right") - 1
    left = np.diff(starts) - np.bincount(np.searchsorted(starts, gone, side="right") - 1, minlength=len(starts) - 1)
    left += np.bincount(homes[homes >= 0], minlength=len(left))
    homes[homes < 0] = np.argmin(left)
    return homes


def _join_table(new: Path, table: Table) -> None:
    """Join the user's table with the items of the finished shards in a folder."""
    folders = sorted(new.iterdir())
    with ExitStack() as stack:
        opened = [stack.enter_context(pinned(folder)) for folder in folders]
        items = stack.enter_context(items_of_all(opened))
        parts, counts = [], []
        for files in opened:
            with items_in(files) as own:
                ids, found = own.ids, metadata_in(files)
            counts.append(len(ids))
            if found is not None:
                parts.append(Part(found, ids, ids))
        described = divide_metadata(new, list(zip(folders, counts, strict=True)), items, parts, table)
    for folder, said in zip(folders, described, strict=True):
        manifest = read_manifest(folder)
        content = {name: value for name, value in manifest.items() if name not in ("format", "files", "metadata")}
        files_of = {name: entry for name, entry in manifest["files"].items() if name != METADATA}
        content |= {} if said is None else {"metadata": said}
        write_manifest(folder, content, [*files_of, *([] if said is None else [METADATA])], files_of)
