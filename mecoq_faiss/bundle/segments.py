"""Segments: the HDF5 files in which a bundle keeps its items, written from arrays, codes or other bundles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mecoq_faiss.bundle.folder import open_items
from mecoq_faiss.bundle.items import BLOCK, Items, items_of_all
from mecoq_faiss.bundle.sharded import pinned_shards
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.hdf5 import SHA256, DatasetHash, create_hdf5, read_checksums
from mecoq_faiss.storage.hdf5_checked import read_attribute
from mecoq_faiss.storage.shards import read_key

COPIED = ("codes", "ids", "paths", "labels", "size", "mtime_ns", "sha256", "error")
ATTRIBUTES = ("key", "class_names", "D", "nbits")  # of an encoded file


def write_items(encoded: Path, items: Path, ids: np.ndarray | None, rows: slice | None = None) -> None:
    """What a bundle keeps of an encoded file, or of some rows; own ids take the place of the source's row numbers."""
    if rows is not None:
        _write_rows(encoded, items, ids, rows)
        return
    with replacing(items) as path, open_items(encoded) as datasets, create_hdf5(path) as file:
        source = datasets["codes"].file
        _copy_attributes(source, file)
        for name, dataset in datasets.items():
            source.copy(dataset, file, name, without_attrs=True)
        sums = read_checksums(source)
        if ids is not None:
            file["ids"][...] = ids
            sums.pop("ids", None)
        file.attrs[SHA256] = json.dumps({name: digest for name, digest in sums.items() if name in datasets})


def _copy_attributes(source: h5py.File, file: h5py.File) -> None:
    for name in ATTRIBUTES:
        value = read_attribute(source, name)
        if value is not None:
            file.attrs[name] = value


def _write_rows(encoded: Path, items: Path, ids: np.ndarray | None, rows: slice) -> None:
    """The same of some rows, a block at a time."""
    sums = {}
    with replacing(items) as path, open_items(encoded) as datasets, create_hdf5(path) as file:
        _copy_attributes(datasets["codes"].file, file)
        start, end, _ = rows.indices(len(datasets["codes"]))
        for name, dataset in datasets.items():
            written = file.create_dataset(name, shape=(end - start, *dataset.shape[1:]), dtype=dataset.dtype)
            digest = DatasetHash()
            for first in range(0, end - start, BLOCK):
                block = slice(first, min(first + BLOCK, end - start))
                own = ids[block] if name == "ids" and ids is not None else None
                values = dataset[start + block.start : start + block.stop] if own is None else own
                written[block] = values
                digest.update(values)
            sums[name] = digest.hexdigest()
        file.attrs[SHA256] = json.dumps(sums)


def write_added(
    out: Path,
    items: Items,
    moved: np.ndarray,
    moved_arrays: dict[str, np.ndarray],
    added: Path | None,
    class_names: Sequence[str],
    next_id: int,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Write moved items and the encoded file of new ones, or some `rows` of it, as one segment; gives their ids."""
    parts: list[dict[str, np.ndarray]] = []
    if len(moved):
        kept = {name: items.lazy(name) for name in COPIED if name not in ("paths", "labels")}
        parts.append({name: column[moved] for name, column in kept.items() if column is not None} | moved_arrays)
    if added is not None:
        with h5py.File(added) as file:
            found = {name: file[name][:] for name in COPIED if name in file}
            found["paths"] = file["paths"].asstr()[:]
        found = found if rows is None else {name: column[rows] for name, column in found.items()}
        found["ids"] = next_id + np.arange(len(found["ids"]), dtype=np.int64)
        parts.append(found)
    names = [name for name in COPIED if all(name in part for part in parts)]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
    write_segment(out, arrays, _attributes(items) | {"class_names": list(class_names)})
    return arrays["ids"]


def _attributes(items: Items) -> dict[str, Any]:
    """Of the first segment, what each of them holds."""
    with h5py.File(items.segments[0]) as file:
        found = {name: read_attribute(file, name) for name in ("D", "nbits")}
    key = {"format": 1, "model": (read_key(items.segments[0]) or {}).get("model"), "data": None}
    return {name: int(value) for name, value in found.items() if value is not None} | {"key": json.dumps(key)}


def write_segment(out: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Write arrays that share their first axis as a segment, with their checksums."""
    sums = {}
    with replacing(out) as temporary, create_hdf5(temporary) as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            digest = DatasetHash()
            if array.dtype == object:
                texts = np.array([text.encode("utf-8", "backslashreplace") for text in array], dtype=object)
                file.create_dataset(name, shape=texts.shape, data=texts, dtype=h5py.string_dtype())
                digest.update(texts)
            else:
                file.create_dataset(name, data=array)
                digest.update(array)
            sums[name] = digest.hexdigest()
        file.attrs[SHA256] = json.dumps(sums)


def all_columns(items: Items) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a segment of all items holds: its arrays and its attributes, as `write_segment` takes them."""
    labels, class_names = items.labels()
    arrays: dict[str, np.ndarray] = {}
    for name in COPIED:
        column = labels if name == "labels" else items.all_paths() if name == "paths" else items.column(name)
        if column is not None:
            arrays[name] = np.asarray(column)
    return arrays, _attributes(items) | {"class_names": class_names}


def write_together(bundle: Path, out: Path) -> None:
    """Write all items of a bundle, whatever the number of its shards and segments, into one file."""
    with pinned_shards(bundle) as (_, shards), items_of_all(shards) as items:
        write_segment(out, *all_columns(items))
