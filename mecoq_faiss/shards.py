"""A large HDF5 file written in shards: a killed run continues at the first missing one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .files import replacing, write_text

Arrays = dict[str, np.ndarray]


def write_in_shards(
    out: Path,
    batches: Callable[[int], Iterable[Arrays]],
    num_batches: int,
    batches_per_shard: int,
    key: dict[str, Any],
    attributes: dict[str, Any] | None = None,
    *,
    require: str | None = None,
) -> None:
    """Write the rows that `batches` yields into one HDF5 file at `out`, with bounded memory.

    Args:
        out: the file; until it is whole there is only a folder `OUT.parts` beside it.
        batches: `batches(start)` yields the batches from number `start` on, each a dict of arrays that share their
            first axis; the same names and dtypes in every batch. Strings are numpy arrays of dtype object.
        num_batches: how many there are in all.
        batches_per_shard: how many make a shard.
        key: what the content depends on; shards of an unfinished run with another key are thrown away.
        attributes: stored on the file, beside the key.
        require: a dataset that must not end up empty.

    Raises:
        ValueError: `require` has no rows: nothing of the source could be read; or there are no batches.
    """
    if num_batches < 1:
        raise ValueError(f"nothing to write into {out}: the source is empty")
    parts = _folder(out)
    key_text = json.dumps(key, sort_keys=True)
    key_file = parts / "key.json"
    if parts.exists() and not (key_file.exists() and key_file.read_text() == key_text):
        shutil.rmtree(parts)
    if not parts.exists():
        parts.mkdir(parents=True)
        write_text(key_file, key_text)
    for left in parts.glob(".*.tmp"):  # of a killed run
        left.unlink()
    num_shards = -(-num_batches // batches_per_shard)
    done = next((i for i in range(num_shards) if not _part(parts, i).exists()), num_shards)
    if done < num_shards:
        remaining = iter(batches(done * batches_per_shard))
        for i in range(done, num_shards):
            count = min(batches_per_shard, num_batches - i * batches_per_shard)
            _write_part(_part(parts, i), [next(remaining) for _ in range(count)])
    written = [_part(parts, i) for i in range(num_shards)]
    if require is not None and not sum(len(part[require]) for part in _open_each(written)):
        shutil.rmtree(parts)
        raise ValueError("no readable image in the source: see the names skipped above")
    whole = parts / "whole.h5"  # in there, so that a killed merge leaves nothing else behind
    _merge(written, whole, {"key": key_text, **(attributes or {})})
    os.replace(whole, out)
    shutil.rmtree(parts)


def bytes_written(out: Path) -> int:
    """How much of an unfinished `out` is on the disk."""
    parts = _folder(out)
    return sum(file.stat().st_size for file in parts.iterdir()) if parts.exists() else 0


def read_key(path: Path) -> dict[str, Any] | None:
    """The key that a file was written under, or None where it is no such file."""
    try:
        with h5py.File(path) as file:
            return json.loads(file.attrs["key"])
    except (OSError, KeyError, ValueError):
        return None


def map_array(path: Path, name: str) -> np.ndarray:
    """A dataset of an HDF5 file as a read-only memory map, so that the system pages it in; strings are read."""
    with h5py.File(path) as file:
        dataset = file[name]
        offset = dataset.id.get_offset()
        if offset is None or dataset.size == 0 or dataset.dtype.hasobject:
            return dataset[:]
        shape, dtype = dataset.shape, dataset.dtype
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _part(parts: Path, i: int) -> Path:
    return parts / f"{i:06d}.h5"


def _write_part(path: Path, batches: list[Arrays]) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for name in batches[0]:
            array = np.concatenate([batch[name] for batch in batches])
            if array.dtype == object:  # file names need not be UTF-8
                texts = [text.encode("utf-8", "backslashreplace") for text in array]
                file.create_dataset(name, shape=array.shape, data=texts or None, dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=array)


def _merge(parts: list[Path], out: Path, attributes: dict[str, Any]) -> None:
    # of HDF5 1.8 and later, whose attributes may be larger than 64 KB: thousands of class names
    with replacing(out) as temporary, h5py.File(temporary, "w", libver=("v108", "latest")) as file:
        file.attrs.update(attributes)
        with h5py.File(parts[0]) as first:
            names = {name: (dataset.shape[1:], dataset.dtype) for name, dataset in first.items()}
        totals = dict.fromkeys(names, 0)
        for part in _open_each(parts):
            for name in names:
                totals[name] += len(part[name])
        for name, (shape, dtype) in names.items():
            file.create_dataset(name, shape=(totals[name], *shape), dtype=dtype)
        starts = dict.fromkeys(names, 0)
        for part in _open_each(parts):
            for name in names:
                rows = len(part[name])
                file[name][starts[name] : starts[name] + rows] = part[name][:]
                starts[name] += rows


def _open_each(parts: list[Path]) -> Iterator[h5py.File]:
    for path in parts:
        with h5py.File(path) as file:
            yield file
