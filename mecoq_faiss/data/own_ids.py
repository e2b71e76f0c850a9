"""read_ids(): a user's own ids of the items, from a .npy, .h5 or table file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mecoq_faiss.data.given import TABLES, read_columns
from mecoq_faiss.storage.files import open_regular
from mecoq_faiss.storage.hdf5_checked import one_line
from mecoq_faiss.storage.npy import check_int64
from mecoq_faiss.storage.shards import map_array

KINDS = "a .npy file of int64, an .h5 file with ids, or a table with a column id; or auto"


def read_ids(path: Path) -> np.ndarray:
    """The ids (n,) of a file, memory-mapped where it can be.

    Raises:
        FileNotFoundError: no file there.
        ValueError: it holds none, or none of int64 (of a table: whole numbers).
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give {KINDS}")
    if path.suffix.lower() in TABLES:
        columns, *_ = read_columns(path, ("id",))
        if not columns:
            raise ValueError(f"{path} has no column id: give {KINDS}")
        return columns["id"]
    try:
        if path.suffix != ".npy":
            return map_array(path, "ids")
        with open_regular(path) as file:
            check_int64(file)
        return np.load(path, mmap_mode="r")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} holds no ids ({one_line(error)}): give {KINDS}") from error
