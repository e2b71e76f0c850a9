"""Rows of a large float array in an HDF5 or ``.npy`` file, read when indexed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from mecoq_faiss.storage.hdf5_checked import one_line, plain_dataset


class FeatureRows:
    """Rows (n, F) or (n, V, F) of floats in a file, read where they are indexed.

    Has ``shape``, ``dtype`` and ``len``; an index (an integer, a slice, or an array of rows) gives a numpy
    array, which may be read-only. Maps the file where it can. Picklable, and safe in forked workers: each process opens
    the file anew.
    """

    def __init__(
        self, path: str, dataset: str | None, shape: tuple[int, ...], dtype: np.dtype, offset: int | None
    ) -> None:
        self._path = path
        self._dataset = dataset  # None in a .npy
        self._offset = offset  # of a contiguous HDF5 dataset in its file
        self._stored_shape = shape
        self._stored_dtype = dtype
        self._rows = np.arange(shape[0])
        self._mapped: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, F) or (n, V, F)."""
        return (len(self._rows), *self._stored_shape[1:])

    @property
    def ndim(self) -> int:
        """2, or 3 with views."""
        return len(self._stored_shape)

    @property
    def dtype(self) -> np.dtype:
        """The floats' type, in this machine's byte order."""
        return self._stored_dtype.newbyteorder("=")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(self._rows[index])
        if rows.ndim == 0:
            return self._read(slice(int(rows), int(rows) + 1))[0]
        if len(rows) and (np.diff(rows) == 1).all():
            return self._read(slice(int(rows[0]), int(rows[-1]) + 1))
        return self._read(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype=dtype) if copy else np.asarray(self[:], dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None}

    def take(self, rows: np.ndarray) -> FeatureRows:
        """The chosen rows, still unread."""
        chosen = object.__new__(FeatureRows)
        chosen.__dict__.update(self.__dict__ | {"_rows": self._rows[rows]})
        return chosen

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file's name, size and time, and the chosen rows."""
        stat = os.stat(self._path)
        stamp = f"{os.path.basename(self._path)}\0{stat.st_size} {stat.st_mtime_ns} {self._dataset}\0"
        return hashlib.sha256(os.fsencode(stamp) + self._rows.astype("<i8").tobytes()).hexdigest()

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        if self._dataset is not None and self._offset is None:
            try:
                with h5py.File(self._path, "r") as file:  # opened at each read: HDF5 does not survive a fork
                    data = plain_dataset(file, self._dataset, self._path, "copy it again", own=False)
                    block = _read_chunked(data, rows)
            except (RuntimeError, OSError) as error:
                raise ValueError(f"{self._path} is damaged ({one_line(error)}): write or copy it again") from error
        else:
            block = self._map()[rows]
        return np.asarray(block, dtype=self.dtype)

    def _map(self) -> np.ndarray:
        if self._mapped is None:
            if self._dataset is None:
                self._mapped = np.load(self._path, mmap_mode="r")
            else:
                self._mapped = np.memmap(self._path, self._stored_dtype, "r", self._offset or 0, self._stored_shape)
        return self._mapped


def _read_chunked(data: h5py.Dataset, rows: slice | np.ndarray) -> np.ndarray:
    if isinstance(rows, slice) or len(rows) == 0:
        return data[rows]
    wanted, back = np.unique(rows, return_inverse=True)  # HDF5 takes rising, distinct rows only
    first, end = int(wanted[0]), int(wanted[-1]) + 1
    if end - first <= 4 * len(wanted):  # many picked rows are slow in HDF5: read the span instead
        return data[first:end][rows - first]
    return data[wanted][back]
