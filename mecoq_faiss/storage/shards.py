"""A large HDF5 file written in shards: a killed run continues at the first missing one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from mecoq_faiss.storage.files import replacing, sha256
from mecoq_faiss.storage.hdf5 import SHA256, DatasetHash, create_hdf5
from mecoq_faiss.storage.hdf5_checked import Wanted, open_checked, read_attribute
from mecoq_faiss.storage.hdf5_file import open_hdf5
from mecoq_faiss.storage.work_folder import WorkFolder

logger = logging.getLogger("mecoq_faiss")
WHOLE = "whole.h5"
PART_NAMES = r"\d{6}(-[0-9a-f]{64})?\.h5|whole\.h5"
ANY = Wanted((1, 2, 3, 4), ())
Arrays = dict[str, np.ndarray]
# Not zarr, which is made of chunks anyway: what comes out is one HDF5 file, and a killed run must keep its shards.


@dataclass(frozen=True)
class Shards:
    """How a file is divided into shards. Any process that sees the folder may write one, others at the same time.

    Attributes:
        folder: where they lie until the file is whole.
        key: what the content depends on.
        num_batches: of the whole file.
        per_shard: batches of each but the last.
    """

    folder: Path
    key: dict[str, Any]
    num_batches: int
    per_shard: int

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.num_batches // self.per_shard)

    @property
    def work(self) -> WorkFolder:
        """The folder, which the process that joins them has opened."""
        return WorkFolder(self.folder, self.key, PART_NAMES)

    def batches(self, i: int) -> range:
        """The numbers of shard i's batches."""
        return range(i * self.per_shard, min((i + 1) * self.per_shard, self.num_batches))

    def find(self, i: int) -> Path | None:
        """Shard i, if it is there; whether it is damaged is seen when the work is begun."""
        return next(iter(self.folder.glob(f"{i:06d}-*.h5")), None)

    def write(self, i: int, batches: Iterator[Arrays]) -> Path:
        """Write shard i from its batches, the next that the iterator gives; gives its path.

        Raises FileNotFoundError where the folder is gone meanwhile, or is there for another content.
        """
        arrays = [next(batches) for _ in self.batches(i)]
        written = self.folder

        def named(temporary: Path) -> Path:
            nonlocal written
            written = self.folder / f"{i:06d}-{sha256(temporary)}.h5"
            if not self.work.is_there():
                raise FileNotFoundError(f"{self.folder} is no longer there for this content: run the same again")
            return written

        with replacing(self.folder / f"{i:06d}.h5", named) as temporary:
            _write_part(temporary, arrays)
        return written


def write_in_shards(
    out: Path,
    batches: Callable[[int], Iterable[Arrays]],
    num_batches: int,
    batches_per_shard: int,
    key: dict[str, Any],
    attributes: dict[str, Any] | None = None,
    *,
    require: str | None = None,
    make: Callable[[Shards, list[int]], dict[int, Path]] | None = None,
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
        make: has those shards of the given numbers written, elsewhere than here, and gives their paths.

    Raises:
        ValueError: `require` has no rows: nothing of the source could be read; or there are no batches.
    """
    if num_batches < 1:
        raise ValueError(f"nothing to write into {out}: the source is empty")
    shards = Shards(_folder(out), key, num_batches, batches_per_shard)
    parts = shards.work
    with parts.opened():
        done = _whole_shards(parts.path)
        missing = sorted(set(range(shards.count)) - done.keys())
        if missing:
            done |= make(shards, missing) if make else _make(shards, missing, batches)
        written = [done[i] for i in range(shards.count)]
        if require is not None and not sum(len(part[require]) for part in _open_each(written)):
            parts.remove()
            raise ValueError("no readable image in the source: see the names skipped above")
        whole = parts.path / WHOLE  # in there, so that a killed merge leaves nothing else behind
        _merge(written, whole, {"key": json.dumps(key, sort_keys=True), **(attributes or {})})
        os.replace(whole, out)
        parts.remove()


def finished(out: Path, key: dict[str, Any]) -> bool:
    """Whether `out` was written under the key and a kill has left its shards; now these are gone."""
    if not out.exists() or not _folder(out).exists() or read_key(out) != json.loads(json.dumps(key)):
        return False
    parts = WorkFolder(_folder(out), key, PART_NAMES)
    with parts.opened():
        parts.remove()
    return True


def has_shards(out: Path) -> bool:
    """Whether there is a folder of shards beside `out`."""
    return _folder(out).exists()


def shards_of(out: Path, num_batches: int, batches_per_shard: int, key: dict[str, Any]) -> Shards:
    """The shards of a file that another process writes by `write_in_shards`, with the same arguments."""
    return Shards(_folder(out), key, num_batches, batches_per_shard)


def bytes_written(out: Path) -> int:
    """How much of an unfinished `out` is on the disk."""
    parts = _folder(out)
    return sum(file.stat().st_size for file in parts.iterdir()) if parts.exists() else 0


def shards_written(out: Path) -> int:
    """How many shards of an unfinished `out` there are."""
    return len(list(_folder(out).glob("??????-*.h5")))


def read_key(path: Path | BinaryIO) -> dict[str, Any] | None:
    """The key that a file was written under, or None where it is no such file."""
    try:
        with open_hdf5(path) as file:
            key = json.loads(read_attribute(file, "key"))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return key if isinstance(key, dict) else None


def map_array(source: Path | BinaryIO, name: str) -> np.ndarray:
    """A dataset of an HDF5 file (its path, or the open file) as a read-only memory map; strings are read.

    The system pages a map in where it is looked at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such dataset, or one that does not lie in the file itself.
    """
    with open_checked(source, {name: ANY}, own=False) as datasets:
        dataset = datasets[name]
        offset = dataset.id.get_offset()
        if offset is None or dataset.size == 0 or dataset.dtype.hasobject:
            return dataset[:]
        shape, dtype = dataset.shape, dataset.dtype
    return np.memmap(source, dtype=dtype, mode="r", offset=offset, shape=shape)


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _whole_shards(parts: Path) -> dict[int, Path]:
    """The shards that are there and whole, by number; the others are removed, and so made again.

    A shard's name holds the SHA-256 of its file.
    """
    done: dict[int, Path] = {}
    for path in sorted(parts.glob("*.h5")):
        number, _, digest = path.stem.partition("-")
        if digest and path.is_file() and sha256(path) == digest:
            done[int(number)] = path
            continue
        if digest:
            logger.warning("%s is damaged: it is made again", path)
        path.unlink()
    return done


def _make(shards: Shards, missing: list[int], batches: Callable[[int], Iterable[Arrays]]) -> dict[int, Path]:
    """Write shards here, one after the other."""
    done: dict[int, Path] = {}
    for i in missing:
        if i - 1 not in done:
            remaining = iter(batches(shards.batches(i).start))
        done[i] = shards.write(i, remaining)
    return done


def _write_part(path: Path, batches: list[Arrays]) -> None:
    with create_hdf5(path) as file:
        for name in batches[0]:
            array = np.concatenate([batch[name] for batch in batches])
            if array.dtype == object:  # file names need not be UTF-8
                texts = [text.encode("utf-8", "backslashreplace") for text in array]
                file.create_dataset(name, shape=array.shape, data=texts or None, dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=array)


def _merge(parts: list[Path], out: Path, attributes: dict[str, Any]) -> None:
    with replacing(out) as temporary, create_hdf5(temporary) as file:
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
        sums = {name: DatasetHash() for name in names}
        for part in _open_each(parts):
            for name in names:
                rows = part[name][:]
                file[name][starts[name] : starts[name] + len(rows)] = rows
                sums[name].update(rows)
                starts[name] += len(rows)
        file.attrs[SHA256] = json.dumps({name: digest.hexdigest() for name, digest in sums.items()})


def _open_each(parts: list[Path]) -> Iterator[h5py.File]:
    for path in parts:
        with h5py.File(path) as file:
            yield file
