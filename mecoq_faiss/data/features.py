"""Ready-made features in an HDF5 or ``.npy`` file, with their paths and labels."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import h5py
import numpy as np

from mecoq_faiss.data.rows import FeatureRows
from mecoq_faiss.storage.files import open_regular
from mecoq_faiss.storage.hdf5_checked import READ_ERRORS, SMALL, check_texts, one_line, plain_dataset, read_texts
from mecoq_faiss.storage.hdf5_file import open_hdf5
from mecoq_faiss.storage.npy import read_header

if TYPE_CHECKING:
    from mecoq_faiss.data.given import Table

FEATURE_TYPES = (".h5", ".hdf5", ".npy")

STD_FLOOR = 0.1  # where features are standardized: no deviation counts as less than this share of the mean one
_MOST_CLASSES = 1 << 20
_BLOCK_BYTES = 1 << 26
_MOST_ROWS = 1 << 28  # of a .npy: each has a name in memory
MEND = "write the arrays themselves into the file"


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """Features of images, with their paths and labels where the file has them.

    Attributes:
        name: what the user typed.
        features: (n, F), or (n, V, F) with V views of each image; float16, 32 or 64, read when indexed.
        paths: the images' names; the row numbers where the file has none.
        labels: class ids (n,) int64, or (n, L) 0/1 uint8 for several labels an image; None without labels.
        class_names: by class id; empty without labels.
        named_by: the sidecar that the paths or labels may be from; None without.
        table: that sidecar, where it has metadata too.

    Example:
        >>> from mecoq_faiss import open_source
        >>> source = open_source("features.npy", "train")
        >>> len(source), source.vectors(slice(0, 2)).shape
        (50, (2, 32))
    """

    kind: ClassVar[str] = "features"

    name: str
    features: FeatureRows = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    class_names: tuple[str, ...]
    protocol: dict | None = None
    named_by: Path | None = field(default=None, repr=False)
    table: Table | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, rows: Sequence[int] | np.ndarray) -> FeatureSource:
        """The same file with the chosen rows only (numbers, or a mask), in the order given."""
        picked = np.arange(len(self))[np.asarray(rows, dtype=None if len(rows) else np.int64)]
        paths = tuple(self.paths[row] for row in picked)
        labels = None if self.labels is None else self.labels[picked]
        return replace(self, features=self.features.take(picked), paths=paths, labels=labels)

    def vectors(self, rows: slice | np.ndarray) -> np.ndarray:
        """The features of some rows, a copy, (m, F) float32; of several views the first."""
        x = np.array(self.features[rows], dtype=np.float32)
        return x if x.ndim == 2 else x[:, 0]

    def digest(self, i: int) -> bytes:
        """SHA-256 (32 bytes) of row ``i`` as float32."""
        return hashlib.sha256(self.vectors(slice(i, i + 1)).tobytes()).digest()

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of row ``i`` as float32, and 0: when a row was written is not known."""
        return 4 * self.features.shape[-1], 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file's name, size and time, the chosen rows, and what a sidecar says of them."""
        if self.named_by is None:
            return self.features.fingerprint
        digest = hashlib.sha256(self.features.fingerprint.encode())
        digest.update("\0".join(self.paths + self.class_names).encode())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Read everything once, in blocks; raises ValueError naming the first row with NaN or infinity."""
        row_size = int(np.prod(self.features.shape[1:]))
        step = max(1, _BLOCK_BYTES // (row_size * self.features.dtype.itemsize))
        for start in range(0, len(self), step):
            finite = np.isfinite(self.features[start : start + step]).reshape(-1, row_size)
            bad = np.flatnonzero(~finite.all(axis=1))
            if len(bad):
                row = start + int(bad[0])
                raise ValueError(
                    f"{self.name}: row {row} ({self.paths[row]}) has NaN or infinity; remove or recompute it"
                )


def open_features(path: Path, name: str) -> FeatureSource:
    """Open a ``.npy`` of features, or an HDF5 file with a dataset ``features`` (or ``embeddings``).

    The HDF5 file may also hold ``paths`` (n,), ``labels`` (n,) class ids or names or (n, L) 0/1, and ``class_names``.

    Raises:
        ValueError: damaged file, no such dataset, features not (n, F) or (n, V, F) floats, empty, or labels
            or paths of another length.
    """
    if path.suffix.lower() == ".npy":
        features = _open_npy(path, name)
        return FeatureSource(name, features, row_names(len(features)), None, ())
    try:
        with open_hdf5(path) as file:
            return _read_file(file, path, name)
    except (OSError, *READ_ERRORS) as error:
        raise ValueError(f"{name}: not a readable HDF5 file ({one_line(error)}); write or copy it again") from error


def _read_file(file: h5py.File, path: Path, name: str) -> FeatureSource:
    there = set(file)
    key = next((key for key in ("features", "embeddings") if key in there), None)
    if key is None:
        raise ValueError(f"{name}: has no dataset 'features' or 'embeddings', only {sorted(there)}; rename it")
    data = plain_dataset(file, key, name, MEND, own=False)
    offset = data.id.get_offset()  # None of chunked data, which have no single place in the file, and of none at all
    _check_features(name, data.shape, data.dtype)
    if data.chunks and len(data) > max(SMALL, data.id.get_storage_size()):
        raise ValueError(f"{name}: {key} claims {len(data):,} rows in {data.id.get_storage_size():,} bytes: {MEND}")
    features = FeatureRows(os.path.abspath(path), key, data.shape, data.dtype, offset)
    n = len(features)
    paths = tuple(_strings(file, "paths", path, name)) if "paths" in there else row_names(n)
    if len(paths) != n:
        raise ValueError(f"{name}: {len(paths)} paths for {n} features; write one path a row")
    labels, class_names = _read_labels(file, path, name, n)
    return FeatureSource(name, features, paths, labels, class_names)


def _open_npy(path: Path, name: str) -> FeatureRows:
    with open_regular(path) as file:
        try:
            shape, dtype = read_header(file)
        except ValueError as error:
            raise ValueError(f"{name}: not a readable .npy file ({error}); write it again with np.save") from None
        available = os.fstat(file.fileno()).st_size - file.tell()
    _check_features(name, shape, dtype)
    if shape[0] > _MOST_ROWS:
        raise ValueError(f"{name}: {shape[0]:,} rows are more than {_MOST_ROWS:,}; split it into several files")
    wanted = math.prod(shape) * dtype.itemsize
    if available < wanted:
        raise ValueError(f"{name}: truncated, {available:,} of {wanted:,} bytes of data; write or copy it again")
    return FeatureRows(os.path.abspath(path), None, shape, dtype, None)


def _check_features(name: str, shape: tuple[int, ...] | None, dtype: np.dtype) -> None:
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"{name}: features are {dtype}; convert them to float32 (float16 and float64 will do)")
    if shape is None or len(shape) not in (2, 3):
        raise ValueError(f"{name}: features have shape {shape}; expected (n, F), or (n, V, F) with V views each")
    if min(shape) < 1:
        raise ValueError(f"{name}: features are empty, shape {shape}; write at least one row")


def _read_labels(file: h5py.File, path: Path, name: str, n: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if "labels" not in file:
        return None, ()
    data = plain_dataset(file, "labels", name, MEND, own=False)
    if data.ndim not in (1, 2) or data.shape[0] != n:
        raise ValueError(f"{name}: labels have shape {data.shape} for {n} features; expected ({n},) or ({n}, L)")
    if data.dtype.kind in "OS" and data.ndim == 1:
        return classes_of(name, np.array(_strings(file, "labels", path, name), dtype=object))
    labels = data[:]
    if labels.ndim == 2:
        if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{name}: labels (n, L) must be 0 or 1")
        labels, numbers = labels.astype(np.uint8), tuple(str(i) for i in range(labels.shape[1]))
    else:
        labels, numbers = classes_of(name, labels)
    if "class_names" not in file:
        return labels, numbers
    count = len(numbers)
    names = _strings(file, "class_names", path, name)
    if len(names) < count:
        raise ValueError(f"{name}: {len(names)} class_names for {count} classes; write one a class")
    return labels, tuple(names)


def classes_of(name: str, labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class ids (n,) int64 and the classes' names, of labels (n,) that are ids, or names (str objects).

    Raises ValueError, in one line that begins with `name`, for anything else.
    """
    if labels.dtype == object:
        classes, ids = np.unique(labels.tolist(), return_inverse=True)
        return ids.astype(np.int64), tuple(classes.tolist())
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        raise ValueError(f"{name}: labels must be class ids, integers from 0 to {_MOST_CLASSES - 1}, or names")
    return labels.astype(np.int64), tuple(str(i) for i in range(int(labels.max()) + 1))


def _strings(file: h5py.File, key: str, path: Path, name: str) -> list[str]:
    data = plain_dataset(file, key, name, MEND, own=False)
    if h5py.check_string_dtype(data.dtype) is None or data.ndim != 1:
        raise ValueError(f"{name}: {data.name} must be a list of strings, not {data.dtype} {data.shape}")
    check_texts(data, path, name, MEND)
    return read_texts(data).tolist()


def row_names(n: int) -> tuple[str, ...]:
    """The paths of rows that have none: their numbers."""
    return tuple(str(row) for row in range(n))
