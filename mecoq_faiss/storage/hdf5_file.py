"""open_hdf5(): an HDF5 file of a stranger, open for reading, whose heaps of texts are looked at before HDF5 does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from mecoq_faiss.storage.files import open_regular

HEAP = b"GCOL"  # begins a heap, in which texts lie one behind the other
HEADER = 16  # bytes, of a heap and of each of its objects


@contextmanager
def open_hdf5(source: str | Path | BinaryIO) -> Iterator[h5py.File]:
    """An HDF5 file, its path or the open file, for reading.

    HDF5 2.0 goes round for ever in a heap with an object of no length. Here that is an OSError where it is read.

    Raises OSError for what is no regular file or no HDF5 file, or one with addresses of another width than 8 bytes.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open_regular(source)) if isinstance(source, str | Path) else source
        file = stack.enter_context(h5py.File(_Checked(raw), "r"))
        if file.id.get_create_plist().get_sizes() != (8, 8):
            raise OSError("its addresses are not of 8 bytes")
        yield file


class _Checked:
    """The file under HDF5, which reads a heap in one piece."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.seek, self.tell, self.read = raw.seek, raw.tell, raw.read  # by which h5py knows a file

    def __repr__(self) -> str:
        return ascii(str(self._raw.name))[1:-1]  # what h5py calls the file

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        if bytes(buffer[:4]) == HEAP and is_endless(bytes(buffer[:count])):
            raise OSError("a heap of texts that goes round for ever")
        return count


def is_endless(heap: bytes) -> bool:
    """Whether an object of a heap has no length, so that the next one is itself."""
    end = min(len(heap), int.from_bytes(heap[8:HEADER], "little"))
    at = HEADER
    while at + HEADER <= end:
        number, size = struct.unpack_from("<H6xQ", heap, at)
        if number == 0 and size == 0:  # free room counts its own header, texts do not
            return True
        at += size if number == 0 else HEADER + -(-size // 8) * 8
    return False
