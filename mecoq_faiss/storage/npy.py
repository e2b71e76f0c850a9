"""The header of a .npy file of a stranger, read before anything is allocated or mapped by it."""

from __future__ import annotations

import math
import os
from typing import BinaryIO

import numpy as np

MOST_HEADER = 10_000  # bytes; as numpy


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy file that is at its start; afterwards it is at the data.

    Raises ValueError, in one line, for whatever is no such header.
    """
    try:
        version = np.lib.format.read_magic(file)
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(file.read(width), "little")
        if length > MOST_HEADER:  # numpy would read it whole before it looks
            raise ValueError(f"a header of {length:,} bytes")
        file.seek(-width, os.SEEK_CUR)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # numpy evaluates the header's text, which lets out nearly any exception
        raise ValueError(" ".join(str(error).split())[:150] or type(error).__name__) from error
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"shape {str(shape)[:80]}")
    return shape, dtype


def check_int64(file: BinaryIO) -> None:
    """ValueError, in one line, unless a .npy file holds a list of int64, whole; leaves it at its start."""
    file.seek(0)
    shape, dtype = read_header(file)
    if len(shape) != 1 or dtype != np.dtype(np.int64):
        raise ValueError(f"{dtype} of shape {str(shape)[:80]}, no list of int64")
    if os.fstat(file.fileno()).st_size - file.tell() < 8 * math.prod(shape):
        raise ValueError(f"{shape[0]:,} numbers, more than there are")
    file.seek(0)
