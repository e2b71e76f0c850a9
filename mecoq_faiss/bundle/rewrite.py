"""The next generation of a bundle: made beside it of what stays and what is new, proved, put in its place at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.bundle.folder import (
    INDEX,
    ITEMS,
    METADATA,
    Pinned,
    encoder_files,
    is_bundle,
    read_manifest,
    write_manifest,
)
from mecoq_faiss.bundle.items import REMOVED, Items, segment_names
from mecoq_faiss.bundle.metadata import carried, write_metadata
from mecoq_faiss.bundle.probes import queries_like_codes
from mecoq_faiss.bundle.proof import verify
from mecoq_faiss.bundle.segments import all_columns, write_added, write_segment
from mecoq_faiss.bundle.sharded import link_opened
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.given import Table
from mecoq_faiss.index.change import append_codes, rebuilt, remove_rows
from mecoq_faiss.index.file import load_index, save_index
from mecoq_faiss.index.inspect import describe_index, read_codebooks
from mecoq_faiss.storage.files import exchange_folders, replacing, restore_folder
from mecoq_faiss.storage.shards import shards_written
from mecoq_faiss.storage.work_folder import WorkFolder

logger = logging.getLogger("mecoq_faiss")
NEXT, PREVIOUS, ENCODED = "next", "previous", "encoded.h5"
NAMES = r"next|previous|encoded\.h5(\.parts)?"
MOST_SEGMENTS = 16  # more are joined
COMPACT_SHARE = 0.25  # of items removed or in later segments, from which all are written into one file
MOST_HISTORY = 1000  # changes that a manifest tells of, the last ones


@contextmanager
def rewriting(bundle: Path) -> Iterator[Path]:
    """Within, this process alone changes the bundle; gives the folder to work in, `BUNDLE.update`, kept where it fails.

    Raises:
        FileNotFoundError: no bundle there.
        files.InUseError: another process changes it.
        FileExistsError: something that is not ours has the folder's name.
    """
    work = WorkFolder(bundle.with_name(bundle.name + ".update"), {"format": 1, "update": bundle.name}, NAMES)
    if not is_bundle(bundle) and not is_bundle(work.path / PREVIOUS):
        read_manifest(bundle)  # says so
    with work.opened():
        restore_folder(bundle, work.path / PREVIOUS)
        work.clear(keep=(ENCODED, ENCODED + ".parts"))
        try:
            yield work.path
        except BaseException:
            encoded = work.path / ENCODED
            if encoded.exists() or shards_written(encoded):
                logger.info("what is encoded is kept in %s: the same command continues from there", work.path)
            elif is_bundle(bundle):
                work.remove()
            raise
        work.remove()


@dataclass(frozen=True)
class Edit:
    """What becomes of a bundle's items.

    Attributes:
        gone: (g,) rows of items to be removed, rising.
        moved: (m,) rows of items that get other `paths` and stamps, of `moved_arrays`; they become the first new ones.
        moved_arrays: `paths`, `size`, `mtime_ns` and, where there are any, `labels` of the moved ones, (m, ...) each.
        added: an encoded file of what is new, or None.
        rows: those of `added` that come into this bundle, (a,) rising; None for all.
        next_id: the lowest id that new items may get, where other bundles have lower ones.
        class_names: what the labels of both count.
        said: what to record of this change in the manifest's `history`.
        compact: write all items into one file, whatever their number.
        table: the user's, of metadata, to be joined with the items, or None.
    """

    gone: np.ndarray
    moved: np.ndarray
    moved_arrays: dict[str, np.ndarray]
    added: Path | None
    class_names: Sequence[str]
    said: dict[str, Any]
    compact: bool = False
    table: Table | None = None
    rows: np.ndarray | None = None
    next_id: int = 0


def write_generation(work: Path, files: Pinned, items: Items, encoder: TorchEncoder, edit: Edit) -> dict[str, Any]:
    """Write the bundle that `files` becomes into `work`/next, prove it, and put it in the old one's place.

    Args:
        work: from `rewriting`.
        files: the opened bundle, all files of it.
        items: its items, open.
        encoder: its encoder.
        edit: what changes.

    Returns:
        The new manifest.

    Raises:
        VerificationError: the new index does not match the model; the old bundle stays.
        OSError: no room; the old bundle stays.
    """
    make_generation(work / NEXT, files, items, encoder, edit)
    return put_in_place(work, files.bundle, files.manifest)


def make_generation(new: Path, files: Pinned, items: Items, encoder: TorchEncoder, edit: Edit) -> dict[str, Any]:
    """Write the bundle that `files` becomes into a folder `new` that is not there, and prove it; gives its manifest."""
    moved, added = edit.moved, edit.added
    names, numbers = segment_names(files.manifest), _ids_to_give(files, items, edit.next_id)
    (new / "encoder").mkdir(parents=True)
    for name in (*encoder_files(files), *names):
        link_opened(files, name, new / name)
    written = 0
    if len(moved) or added is not None:
        names.append(_next_name(names))
        free = numbers["next_id"]
        ids = write_added(new / names[-1], items, moved, edit.moved_arrays, added, edit.class_names, free, edit.rows)
        numbers["next_id"], written = max(free, int(ids.max()) + 1), len(ids)
    dropped = np.sort(np.concatenate([edit.gone, moved])).astype(np.int64)
    if len(items) + written == len(dropped):
        raise ValueError(f"nothing would be left in {files.bundle}: remove it instead, or export another collection")
    with _items_after(new, items, names, dropped, edit.compact) as (names, after):
        save_index(_next_index(files, encoder, items, after, dropped, written), new / INDEX)
        proved = _proved(new / INDEX, encoder, after)
        described = _next_metadata(new, files, items, edit.gone, after, edit.table)
        told = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **edit.said, "items": len(after)}
        all_names = [INDEX, *names, *encoder_files(files), *([REMOVED] if len(after.removed) else [])]
        all_names += [METADATA] if described is not None else []
        proved |= {} if described is None else {"metadata": described}
    content = {"counts": {"items": told["items"]}, "segments": names, **numbers, "updated": told["time"], **proved}
    content["history"] = [*files.manifest.get("history", [])[1 - MOST_HISTORY :], told]
    return _write_next_manifest(new, files, content, all_names)


def _ids_to_give(files: Pinned, items: Items, least: int) -> dict[str, int]:
    """The lowest id that no item ever had, and that of the first item that came after the export."""
    manifest = files.manifest
    ids = items.column("ids") if "next_id" not in manifest else None
    free = max(least, manifest["next_id"] if ids is None else int(ids.max()) + 1)
    return {"next_id": free, "first_new_id": manifest.get("first_new_id", free)}


def _next_name(names: list[str]) -> str:
    """The name of a segment after those that there are."""
    number = 1 + max(int(name[6:-3]) if name != ITEMS else 1 for name in names)
    return f"items-{number:06d}.h5"


def _write_next_manifest(new: Path, files: Pinned, content: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The manifest of a folder that the opened bundle becomes, with this other `content`."""
    content = {
        name: value for name, value in files.manifest.items() if name not in ("format", "files", "metadata")
    } | content
    entries = files.manifest["files"].items()
    kept = {n: entry for n, entry in entries if n in names and (new / n).samefile(files.bundle / n)}
    write_manifest(new, content, names, kept)
    return read_manifest(new)


def put_in_place(work: Path, bundle: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Put `work`/next in the place of the bundle that `manifest` tells of; gives the new manifest."""
    if read_manifest(bundle) != manifest:
        raise ValueError(f"{bundle} was replaced meanwhile: run the same again")
    exchange_folders(work / NEXT, bundle, work / PREVIOUS)
    return read_manifest(bundle)


@contextmanager
def _items_after(
    new: Path, items: Items, names: list[str], dropped: np.ndarray, compact: bool
) -> Iterator[tuple[list[str], Items]]:
    """The names of the segments in the folder `new`, and their items without the rows `dropped` of the old ones.

    Too many segments are joined; what is removed is written.
    """
    removed = np.sort(np.concatenate([items.removed, items.places(dropped)]))
    with ExitStack() as stack:
        after = stack.enter_context(
            Items([*items.segments, *(new / name for name in names[len(items.segments) :])], removed, items)
        )
        total, first = sum(after.sizes), after.sizes[0]
        outside = total - first + len(removed)
        joined = None
        if compact or outside > COMPACT_SHARE * total:
            joined = _compacted(new, names, after)
        elif len(names) > MOST_SEGMENTS:
            joined = _joined(new, names, after)
        if joined is not None:
            names, removed = joined
            after = stack.enter_context(Items([new / name for name in names], removed))
        if len(removed):
            with replacing(new / REMOVED) as temporary, open(temporary, "wb") as file:
                np.save(file, removed)
        yield names, after


def _next_metadata(
    new: Path, files: Pinned, items: Items, gone: np.ndarray, after: Items, given: Table | None
) -> dict[str, Any] | None:
    """Metadata of the next generation, and what its manifest says of them; linked where they stay as they are."""
    if given is None and not len(gone):
        if METADATA in files.names:
            link_opened(files, METADATA, new / METADATA)
        return files.manifest.get("metadata")
    return write_metadata(new, carried(files, items, gone, after), given, after)


def _next_index(
    files: Pinned, encoder: TorchEncoder, items: Items, after: Items, dropped: np.ndarray, added: int
) -> faiss.Index:
    """The index of the items `after`: the old one of inverted lists changed, or one built when the old one is gone."""
    index = index_in(files, items)
    said, codebooks = describe_index(index), read_codebooks(index)
    codes, ids = after.lazy("codes"), after.lazy("ids")
    assert codes is not None and ids is not None
    if said["nlist"] is None:
        del index
        return rebuilt(said, codebooks, codes, ids if said["has_ids"] else None, encoder.is_additive)
    last = slice(len(after) - added, len(after))
    remove_rows(index, dropped)
    append_codes(index, codes[last], ids[last] if said["has_ids"] else None)
    return index


def _proved(path: Path, encoder: TorchEncoder, items: Items) -> dict[str, Any]:
    """The proof of the index that was written, and what a manifest says of it."""
    index = load_index(path, mmap=True)
    said, codebooks = describe_index(index), read_codebooks(index)
    codes, ids = items.lazy("codes"), items.lazy("ids") if said["has_ids"] else None
    assert codes is not None
    xq = queries_like_codes(codebooks, codes, encoder.is_additive)
    figures = verify(index, codebooks, encoder.quantizer.cpu(), codes, xq, ids=ids)
    return {"verification": figures} | {name: said[name] for name in ("nlist", "nprobe", "refine")}


def _compacted(new: Path, names: list[str], items: Items) -> tuple[list[str], np.ndarray]:
    """All items that are left in one file."""
    arrays, attributes = all_columns(items)
    for name in names:
        (new / name).unlink()
    write_segment(new / ITEMS, arrays, attributes)
    return [ITEMS], np.empty(0, np.int64)


def _joined(new: Path, names: list[str], items: Items) -> tuple[list[str], np.ndarray]:
    """All segments but the first in one, without what is removed of them."""
    first = items.sizes[0]
    removed = items.removed
    with Items([new / name for name in names[1:]], removed[removed >= first] - first) as later:
        arrays, attributes = all_columns(later)
    for name in names[1:]:
        (new / name).unlink()
    write_segment(new / names[-1], arrays, attributes)
    return [names[0], names[-1]], removed[removed < first]
