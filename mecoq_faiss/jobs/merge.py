"""The whole job of joining bundles of one model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.embedding import model_fingerprint
from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import Pinned, read_manifest
from mecoq_faiss.bundle.items import items_in, items_of_all
from mecoq_faiss.bundle.metadata import Part, metadata_in
from mecoq_faiss.bundle.recast import NAMES, next_id, settings, write_recast, write_shards_of
from mecoq_faiss.bundle.segments import all_columns
from mecoq_faiss.bundle.sharded import pinned_shards, verify_all_files
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.index import describe_index, read_codebooks
from mecoq_faiss.storage.files import check_writable_parent
from mecoq_faiss.storage.work_folder import MARKER, WorkFolder

COMPARED = {
    "kind": "kind",
    "refine": "k_factor of refine",
    "has_ids": "use of own ids",
}  # settings, as an error calls them
LISTS = ("nlist", "nprobe")


def merge(
    bundles: Sequence[str | Path],
    out: str | Path,
    *,
    new_ids: bool = False,
    shards: bool = False,
    nlist: int | None = None,
    nprobe: int | None = None,
) -> dict[str, Any]:
    """Join bundles of one model into a new one, from their codes: no image is read.

    The items come one bundle after the other and keep their ids. The index is built as an export of the joined codes
    would build it, of the first bundle's kind and settings, and proved.

    Where one of them is in shards, or with `shards`, nothing is built: each bundle, and each shard of one, becomes a
    shard, of the same files where the file system knows hard links. Those with lists must then have the same centroids.

    Args:
        bundles: two folders or more, with the same model, kind and settings of the index.
        out: the new bundle's folder; refused where it exists.
        new_ids: give the items the ids 0 to n - 1; shards are then written anew.
        shards: keep the bundles as shards of the new one.
        nlist: inverted lists of an IVF kind; by default those of the bundles, which must then agree.
        nprobe: lists a search visits; by default as the bundles say, which must then agree.

    Returns:
        The manifest. Labels are kept where every bundle has them.

    Raises:
        FileNotFoundError: no bundle there.
        FileExistsError: `out` is there.
        ValueError: bundles of different models or settings; a path that occurs twice, or an id without `new_ids`.
        VerificationError: the index does not match the model; no bundle is left.

    Example:
        >>> from mecoq_faiss import merge
        >>> merge(["bundle-half-1", "bundle-half-2"], "bundle-whole")["counts"]
        {'items': 20}
    """
    names, out = [Path(bundle) for bundle in bundles], Path(out)
    if len(names) < 2:
        raise ValueError("give two bundles or more to be merged")
    key = {"format": 1, "merge": [str(name) for name in names]}
    work = WorkFolder(out.with_name(out.name + ".partial"), key, NAMES)
    if out.exists():
        if (out / MARKER).exists():  # a kill came when it was done
            verify_all_files(out)
        if not work.finish(out):
            raise FileExistsError(f"{out} exists: choose another --out")
        return read_manifest(out)
    check_writable_parent(out)
    given = {name: value for name, value in (("nlist", nlist), ("nprobe", nprobe)) if value is not None}
    with ExitStack() as stack:
        told = [stack.enter_context(pinned_shards(name)) for name in names]
        opened = [files for _, of_one in told for files in of_one]
        in_shards = shards or any("shards" in manifest for manifest, _ in told)
        if in_shards and given:
            raise ValueError("shards keep their lists: leave --nlist and --nprobe out")
        encoder, index = encoder_in(opened[0], "cpu"), index_in(opened[0])
        said, codebooks = describe_index(index), read_codebooks(index)
        del index
        fingerprint = model_fingerprint(encoder)
        for files in opened[1:]:
            if model_fingerprint(encoder_in(files, "cpu")) != fingerprint:
                raise ValueError(
                    f"{files.bundle} is of another model than {names[0]}: encode its images with one model"
                )
            _check_settings(said, describe_index(index_in(files)), names[0], files.bundle, given)
        items = stack.enter_context(items_of_all(opened))
        ids, free = items.ids, max(_first_free(opened), *(manifest.get("next_id", 0) for manifest, _ in told))
        owner = np.repeat(np.arange(len(opened)), [files.manifest["counts"]["items"] for files in opened])
        if (rows := _first_twice(items.all_paths())) is not None:
            one, other = (opened[owner[row]].bundle for row in rows)
            raise ValueError(
                f"{items.paths(np.array(rows[:1]))[0]!r} is an item of {one} and of {other}: remove it from one of them"
            )
        if not new_ids and (rows := _first_twice(ids)) is not None:
            one, other = (opened[owner[row]].bundle for row in rows)
            raise ValueError(f"id {ids[rows[0]]} is an item's of {one} and of {other}: give --new-ids")
        new = np.arange(len(ids), dtype=np.int64) if new_ids else ids
        free = len(ids) if new_ids else free
        source = ", ".join(map(str, names))
        with work.opened():
            work.clear(keep=())
            try:
                if in_shards:
                    parts = [(files, new[owner == number] if new_ids else None) for number, files in enumerate(opened)]
                    write_shards_of(work.path, parts, encoder, codebooks, said, first_free=free, source=source)
                else:
                    arrays, attributes = all_columns(items)
                    write_recast(
                        work.path, opened[0], encoder, codebooks, arrays | {"ids": new}, attributes,
                        settings(said | given, len(ids)), own_ids=said["has_ids"], first_free=free, source=source,
                        metadata=_metadata(opened, owner, ids, new),
                    )  # fmt: skip
            except BaseException:
                work.remove()
                raise
            work.become(out)
    return read_manifest(out)


def _metadata(bundles: Sequence[Pinned], owner: np.ndarray, old_ids: np.ndarray, new_ids: np.ndarray) -> list[Part]:
    """The metadata that the items (n,) have in their bundles."""
    parts = []
    for number, files in enumerate(bundles):
        found = metadata_in(files)
        if found is not None:
            parts.append(Part(found, old_ids[owner == number], new_ids[owner == number]))
    return parts


def _check_settings(
    first: dict[str, Any], other: dict[str, Any], first_name: Path, name: Path, given: dict[str, int]
) -> None:
    for setting, called in {**COMPARED, **{lists: lists for lists in LISTS if lists not in given}}.items():
        if other[setting] != first[setting]:
            mend = f"give --{setting}" if setting in LISTS else "export one of them again from its codes"
            raise ValueError(f"the {called} of {name} is {other[setting]}, of {first_name} {first[setting]}: {mend}")


def _first_free(bundles: Sequence[Pinned]) -> int:
    free = []
    for files in bundles:
        with items_in(files) as items:
            free.append(next_id(files, items.ids))
    return max(free)


def _first_twice(values: np.ndarray) -> tuple[int, int] | None:
    """The rows of the first value that was there before: where it was, and where it is again."""
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(values)))
    return (int(first[which[again[0]]]), int(again[0])) if len(again) else None
