"""HDF5 files written without HDF5's crash on a full disk, and a checksum of every dataset in them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mecoq_faiss.storage.hdf5_checked import READ_ERRORS, check_texts, plain_dataset, read_attribute
from mecoq_faiss.storage.hdf5_file import open_hdf5

SHA256 = "sha256"  # attribute of a file: JSON, hex SHA-256 by dataset
BLOCK_BYTES = 1 << 24


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file to write into.

    HDF5 ends the process when it cannot write its last bytes, and takes what memory holds for what it wrote where it
    reads too little of that back. So the file goes on as if the disk were well, and a failed write is raised when the
    next dataset is asked for, or when the file is closed.

    Raises:
        OSError: the disk is full, a size limit is reached, or it cannot be written.
    """
    with _Target(path) as target:
        try:
            with _Written(target) as file:
                yield file
        except Exception as error:
            if target.error is None:
                raise
            raise target.failure() from error
        target.check()


class _Written(h5py.File):
    def __init__(self, target: _Target) -> None:
        self._target = target
        # of HDF5 1.8 and later, whose attributes may be larger than 64 KB: thousands of class names
        super().__init__(target, "w", libver=("v108", "latest"))

    def __getitem__(self, name: Any) -> Any:
        self._target.check()
        return super().__getitem__(name)

    def create_dataset(self, *args: Any, **options: Any) -> h5py.Dataset:
        self._target.check()
        return super().create_dataset(*args, **options)


class _Target(io.FileIO):
    """The file under HDF5. Once a write has failed, what else is written is kept here, to be read back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.path, self.error, self._kept = path, None, []

    path: Path
    error: OSError | None
    _kept: list[tuple[int, bytes]]

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        start, done = self.tell(), 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            self._kept.append((start, bytes(view)))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        start, view = self.tell(), memoryview(buffer).cast("B")
        count = super().readinto(view) or 0
        if self.error is None:
            return count
        view[count:] = bytes(len(view) - count)
        for at, piece in self._kept:
            first, last = max(at, start), min(at + len(piece), start + len(view))
            if first < last:
                view[first - start : last - start] = piece[first - at : last - at]
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        if self.error is not None:
            raise self.failure()

    def failure(self) -> OSError:
        assert self.error is not None
        code = self.error.errno or errno.EIO
        return OSError(code, f"{self.error.strerror} while writing: make room and run the same again", str(self.path))


class DatasetHash:
    """SHA-256 of a dataset, whatever the pieces in which its rows come."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, rows: np.ndarray) -> None:
        """Add rows; strings are bytes in an array of dtype object."""
        if rows.dtype == object:
            for text in rows.flat:
                text = text.encode() if isinstance(text, str) else text
                self._digest.update(b"%d:%s" % (len(text), text))
        else:
            self._digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """SHA-256 of what was written so far."""
        return self._digest.hexdigest()


def damaged_dataset(path: Path) -> str | None:
    """The name of a dataset that does not match its checksum; None where all do, or the file has no checksums.

    A link, a group, or data in another file do not match. Raises OSError where HDF5 cannot read the file.
    """
    with open_hdf5(path) as file:
        for name, expected in read_checksums(file).items():
            if not _matches(file, name, expected, path):
                return name
    return None


def _matches(file: h5py.File, name: str, expected: str, path: Path) -> bool:
    try:
        if name not in set(file):
            return False
        dataset = plain_dataset(file, name, str(path), "", own=True)
        check_texts(dataset, path, str(path), "")
        return _hash(dataset) == expected
    except (ValueError, *READ_ERRORS):
        return False


def read_checksums(file: h5py.File) -> dict[str, str]:
    """The checksums that a file holds, by dataset; empty for a file without."""
    try:
        sums = dict(json.loads(read_attribute(file, SHA256)))
    except (ValueError, TypeError, RecursionError):
        return {}
    return {name: digest for name, digest in sums.items() if isinstance(name, str)}


def _hash(dataset: h5py.Dataset) -> str:
    digest = DatasetHash()
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(dataset), step):
        digest.update(dataset[start : start + step])
    return digest.hexdigest()
