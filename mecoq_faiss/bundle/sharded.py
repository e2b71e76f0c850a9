"""A bundle in shards: a folder of ordinary bundles, shard-000000 and so on, and a manifest that lists them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.folder import (
    ENCODER_FILES,
    FORMAT,
    INDEX,
    MANIFEST,
    METADATA,
    ONNX,
    Pinned,
    pinned,
    read_manifest,
)
from mecoq_faiss.bundle.items import Items, items_in
from mecoq_faiss.index import load_index
from mecoq_faiss.index.inspect import read_centroids
from mecoq_faiss.storage.files import replacing, sha256, sync_folder, write_text

SHARD = r"shard-\d{6}"  # the name of a shard's folder
ALIKE = (  # what the shards' manifests must say alike
    "kind", "M", "nbits", "d", "codes", "bytes_per_code", "metric", "query_normalisation", "query_repeats",
    "nlist", "nprobe", "refine", "has_ids", "preprocessing",
)  # fmt: skip
BLOCK = 1 << 20  # ids looked at together


def shard_name(number: int) -> str:
    """The name of a shard's folder."""
    return f"shard-{number:06d}"


def each_shard(bundle: Path, manifest: dict[str, Any]) -> Iterator[Pinned]:
    """Each shard of a bundle with all its files opened, while it is its turn; a bundle without shards as its only one.

    Raises ValueError where a shard is not the one that the bundle's `manifest` tells of.
    """
    if "shards" not in manifest:
        with pinned(bundle) as files:
            yield files
    for shard in manifest.get("shards", ()):
        with pinned(bundle / shard["folder"]) as files:
            _check_told(files, manifest, shard)
            yield files


def verify_all_files(bundle: Path) -> None:
    """Compare all files of a bundle, of its shards where it has such, with the manifests; ValueError for the first."""
    for files in each_shard(bundle, read_manifest(bundle)):
        for name in files.names:
            files.file(name)


@contextmanager
def pinned_shards(bundle: Path) -> Iterator[tuple[dict[str, Any], list[Pinned]]]:
    """The manifest of a bundle and all its shards, opened together; one without shards is its only one."""
    manifest = read_manifest(bundle)
    with ExitStack() as stack:
        if "shards" not in manifest:
            files = stack.enter_context(pinned(bundle))
            yield files.manifest, [files]
            return
        opened = [stack.enter_context(pinned(bundle / shard["folder"])) for shard in manifest["shards"]]
        for files, shard in zip(opened, manifest["shards"], strict=True):
            _check_told(files, manifest, shard)
        yield manifest, opened


def _check_told(files: Pinned, manifest: dict[str, Any], shard: dict[str, Any]) -> None:
    alike = all(files.manifest.get(name) == manifest.get(name) for name in ALIKE)
    if not alike or _told(files.bundle) != shard:
        raise ValueError(f"{files.bundle} is not the one that the manifest tells of: export or copy the bundle again")


def _told(shard: Path) -> dict[str, Any]:
    """What the manifest of all says of a shard."""
    text = shard / MANIFEST
    items = read_manifest(shard)["counts"]["items"]
    return {"folder": shard.name, "items": items, "sha256": sha256(text), "bytes": text.stat().st_size}


def write_sharded(folder: Path, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a bundle of the finished shards in a folder: `shard-000000` and so on, in the order of their names.

    They may have been built anywhere, one by one, and are ordinary bundles: of one model, of one kind of index with the
    same settings and, where it has lists, the same centroids; no id is an item's of two. Their encoders become one file
    under several names, where the file system knows hard links. Items are counted through the shards in turn.

    Args:
        folder: where they lie, which is not in use yet, or `BUNDLE.update/next`.
        content: what the manifest says in place of what follows from the shards: `source`, `history`, ...; what
            `counts` says is added to the number of items.

    Returns:
        The manifest, which was written last.

    Raises:
        ValueError: no shards, damaged ones, or such as do not belong together.
    """
    shards = sorted(path for path in folder.iterdir() if re.fullmatch(SHARD, path.name))
    if not shards:
        raise ValueError(f"{folder} has no shards: build shard-000000 and the others in it first")
    manifests = [read_manifest(shard) for shard in shards]
    first = manifests[0]
    for shard, manifest in zip(shards[1:], manifests[1:], strict=True):
        for name in ALIKE:
            if manifest.get(name) != first.get(name):
                raise ValueError(
                    f"{shard} has {name}={manifest.get(name)!r}, {shards[0].name} {first.get(name)!r}: "
                    "build them with the same settings"
                )
    check_together(shards)
    _link_encoders(shards, manifests)
    counts = {"items": sum(manifest["counts"]["items"] for manifest in manifests)}
    written: dict[str, Any] = {"format": FORMAT, **{name: first[name] for name in ALIKE if name in first}}
    written |= {name: first[name] for name in ("source", "versions") if name in first}
    written |= {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "next_id": max(next_free_id(shard, manifest) for shard, manifest in zip(shards, manifests, strict=True)),
        "verification": worst_figures([manifest.get("verification", {}) for manifest in manifests]),
    }
    described = _all_metadata(manifests)
    written |= {} if described is None else {"metadata": described}
    written |= content or {}
    written |= {
        "counts": {**written.get("counts", {}), **counts},
        "shards": [_told(shard) for shard in shards],
        "files": {},
    }
    for path in (*shards, folder):
        sync_folder(path)
    write_text(folder / MANIFEST, json.dumps(written, indent=2) + "\n")
    return read_manifest(folder)


def check_together(shards: list[Path]) -> None:
    """ValueError where shards have different centroids, or an item of the same id."""
    _check_centroids(shards)
    _check_ids(shards)


def _check_centroids(shards: list[Path]) -> None:
    first = None
    for shard in shards:
        centroids = read_centroids(load_index(shard / INDEX, mmap=True))
        if centroids is None:
            return
        first = centroids if first is None else first
        if not np.array_equal(centroids, first):
            raise ValueError(f"{shard} has other centroids than {shards[0].name}: build all shards with the same ones")


def _check_ids(shards: list[Path]) -> None:
    """ValueError where an id is an item's of two shards; where their ranges do not meet, nothing more is read."""
    ranges = []
    for shard in shards:
        with pinned(shard) as files, items_in(files) as items:
            low, high = id_range(items)
            ranges.append((low, high, shard))
    ranges.sort(key=lambda entry: entry[:2])
    if all(before[1] < after[0] for before, after in pairwise(ranges)):
        return
    ids, owner = [], []
    for number, shard in enumerate(shards):
        with pinned(shard) as files, items_in(files) as items:
            ids.append(np.array(items.column("ids")))
            owner.append(np.full(len(ids[-1]), number))
    together, owners = np.concatenate(ids), np.concatenate(owner)
    order = np.argsort(together, kind="stable")
    twice = np.flatnonzero(together[order][1:] == together[order][:-1])
    if len(twice):
        one, other = (shards[owners[order[twice[0] + step]]] for step in (0, 1))
        raise ValueError(
            f"id {together[order[twice[0]]]} is an item's of {one.name} and of {other.name}: build them with ids that "
            "no other shard has"
        )


def id_range(items: Items) -> tuple[int, int]:
    """The lowest and the highest id of items, some of which there are."""
    ids = items.lazy("ids")
    assert ids is not None
    blocks = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)]
    return min(int(block.min()) for block in blocks), max(int(block.max()) for block in blocks)


def next_free_id(shard: Path, manifest: dict[str, Any]) -> int:
    """The lowest id that no item of a shard ever had."""
    with pinned(shard) as files, items_in(files) as items:
        return max(int(manifest.get("next_id", 0)), id_range(items)[1] + 1)


def _link_encoders(shards: list[Path], manifests: list[dict[str, Any]]) -> None:
    """ValueError where two shards have different encoders; where they can be one file, they become it."""
    has_graph = [ONNX in manifest["files"] for manifest in manifests]
    if any(has_graph) != all(has_graph):
        raise ValueError(f"some of the shards have {ONNX}, {shards[has_graph.index(False)]} has none: give it to all")
    for name in (*ENCODER_FILES, *([ONNX] if has_graph[0] else [])):
        for shard, manifest in zip(shards[1:], manifests[1:], strict=True):
            if manifest["files"][name]["sha256"] != manifests[0]["files"][name]["sha256"]:
                raise ValueError(f"{shard / name} is not that of {shards[0].name}: encode all items with one model")
            link_file(shards[0] / name, shard / name)


def link_file(source: Path, target: Path) -> None:
    """Make `target`, which may be there with the same content, the same file as `source`; else it is a copy."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:  # a file system without hard links
        if not target.exists():
            with replacing(target) as copied:
                shutil.copyfile(source, copied)


def link_opened(files: Pinned, name: str, target: Path) -> None:
    """The same file under a second name, or a copy of it; of the generation that is open, whatever is in its place."""
    source = files.file(name)
    try:
        os.link(files.bundle / name, target)
        if os.path.samestat(os.stat(target), os.fstat(source.fileno())):
            return
        target.unlink()
    except OSError:  # a file system without hard links
        target.unlink(missing_ok=True)
    with replacing(target) as temporary, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def link_all(files: Pinned, folder: Path) -> None:
    """A shard as it is under a second name."""
    (folder / "encoder").mkdir(parents=True)
    for name in files.names:
        link_opened(files, name, folder / name)
    link_file(files.bundle / MANIFEST, folder / MANIFEST)


def worst_figures(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure of the shards' proofs the worst."""
    names = [name for name in figures[0] if all(name in of_shard for of_shard in figures)]
    high = ("max_", "table_")
    return {name: (max if name.startswith(high) else min)(each[name] for each in figures) for name in names}


def _all_metadata(manifests: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the manifest of all says of the metadata in the shards."""
    described = [manifest["metadata"] for manifest in manifests if METADATA in manifest["files"]]
    if not described:
        return None
    columns: dict[str, str] = {}
    for one in described:
        columns = one["columns"] | columns
    sidecars = {one.get("sidecar") for one in described}
    found = {"rows": sum(one["rows"] for one in described), "columns": columns}
    return found | ({"sidecar": sidecars.pop()} if len(sidecars) == 1 and None not in sidecars else {})
