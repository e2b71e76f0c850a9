"""Index files: written whole or not at all; what is no index is refused in one line."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import faiss

from mecoq_faiss.storage.files import replacing

_one_at_a_time = threading.Lock()  # FAISS's limits are the process's: overlapping reads would restore each other's


def save_index(index: faiss.Index, path: str | Path) -> None:
    """Write `index` where plain `faiss.read_index` finds it: to a temporary name beside `path`, fsynced, renamed.

    Raises OSError where it cannot be written whole.
    """
    with replacing(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # FAISS's own files print on a full disk, and do not always raise
                faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        except (OSError, RuntimeError) as error:
            raise OSError(f"{path} could not be written whole: is there room for it? ({_reason(error)})") from error


def load_index(source: str | Path | BinaryIO, *, mmap: bool = False) -> faiss.Index:
    """Read an index file, refusing sizes that its bytes cannot hold. Loads of several threads come one after another.

    Args:
        source: a file written by `save_index` or `faiss.write_index`: its path, or the file itself, open.
        mmap: map the codes instead of reading them: the file opens at once, and pages come as a search needs them. Such
            an index is read-only, and needs a path. FAISS cannot map FastScan's blocks nor id maps; these are read all
            the same. FAISS 1.15 may crash on mapping a file that lost its very last bytes: compare its size with the
            manifest's first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, cut short, or no FAISS index.
    """
    with ExitStack() as stack:
        if isinstance(source, str | Path):
            if not Path(source).is_file():
                raise FileNotFoundError(f"no index file at {source}: check the path, or export the index again")
            file: BinaryIO = stack.enter_context(open(source, "rb"))  # a PermissionError of Python's own
        else:
            file = source
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        stack.enter_context(_sizes_limited_to(size))
        try:
            if isinstance(source, str | Path):
                return faiss.read_index(str(source), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
            reader = faiss.PyCallbackIOReader(file.read)  # type: ignore[attr-defined]
            return faiss.read_index(reader)
        except RuntimeError as error:
            path = source if isinstance(source, str | Path) else file.name
            raise ValueError(f"{path} is cut short or no FAISS index: copy it again, or export it again") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]


@contextmanager
def _sizes_limited_to(size: int) -> Iterator[None]:
    """FAISS's own limits on what a hostile file can make it allocate, for one read (FAISS 1.14 and later)."""
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        yield
        return
    with _one_at_a_time:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])
