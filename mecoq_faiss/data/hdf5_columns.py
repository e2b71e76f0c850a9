"""Columns of an .h5 file of features: its paths, and each further list as long as the features."""

from __future__ import annotations

from pathlib import Path
from typing import IO, BinaryIO, cast

import h5py
import numpy as np

from mecoq_faiss.data.features import MEND, open_features
from mecoq_faiss.storage.hdf5_checked import READ_ERRORS, check_texts, one_line, plain_dataset, read_texts
from mecoq_faiss.storage.hdf5_file import open_hdf5

KNOWN = ("features", "embeddings", "paths", "path", "labels", "ids", "class_names")  # read otherwise, or no metadata


def read_more(file: IO[bytes]) -> dict[str, np.ndarray]:
    """`path`, the file's paths or else the rows' numbers, and its other datasets (n,) of n features, by name.

    Texts are (n,) str objects. Groups, links and datasets of another shape are passed over. Raises ValueError, in one
    line, for what is no file of features, or damaged, and for a list of anything but numbers and texts.
    """
    source = open_features(Path(file.name), file.name)
    columns = {"path": np.array(source.paths, dtype=object)}
    try:
        with open_hdf5(cast(BinaryIO, file)) as held:
            for name in held:
                if name not in KNOWN and _is_list(held, name, len(source)):
                    columns[name] = _column(held, name, cast(BinaryIO, file))
    except (OSError, *READ_ERRORS) as error:
        raise ValueError(f"{file.name}: not a readable HDF5 file ({one_line(error)}); copy it again") from error
    return columns


def _is_list(file: h5py.File, name: str, n: int) -> bool:
    inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
    return inside and file.get(name, getclass=True) is h5py.Dataset and file[name].shape == (n,)


def _column(file: h5py.File, name: str, source: BinaryIO) -> np.ndarray:
    data = plain_dataset(file, name, str(source.name), MEND, own=False)
    if h5py.check_string_dtype(data.dtype) is not None:
        check_texts(data, source, str(source.name), MEND)
        return read_texts(data)
    if data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        raise ValueError(f"{source.name}: {name} is {data.dtype}: metadata are numbers, true or false, or texts")
    half = data.dtype.kind == "f" and data.dtype.itemsize == 2  # which DuckDB does not know
    return data[:].astype(np.float32 if half else data.dtype.newbyteorder("="))
