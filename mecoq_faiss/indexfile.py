"""Index files: written whole or not at all, and read with one line for a file that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss

from .files import replacing


def save_index(index: faiss.Index, path: str | Path) -> None:
    """Write `index` where plain `faiss.read_index` finds it: to a temporary name beside `path`, fsynced, renamed.

    Raises OSError where it cannot be written whole.
    """
    with replacing(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            raise OSError(f"{path} could not be written whole: is there room for it? ({_last_line(error)})") from error


def load_index(path: str | Path, *, mmap: bool = False) -> faiss.Index:
    """Read an index file, refusing sizes that its bytes cannot hold.

    Args:
        path: a file written by `save_index` or `faiss.write_index`.
        mmap: map the codes instead of reading them: the file opens at once, and pages come as a search needs them. Such
            an index is read-only. FAISS cannot map FastScan's blocks nor id maps; these are read all the same. FAISS
            1.15 may crash on mapping a file that lost its very last bytes: compare its size with the manifest's first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, cut short, or no FAISS index.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no index file at {path}: check the path, or export the index again")
    with open(path, "rb"):  # a PermissionError of Python's own
        pass
    try:
        with _sizes_limited_to(path.stat().st_size):
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise ValueError(f"{path} is cut short or no FAISS index: copy it again, or export the index again") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


@contextmanager
def _sizes_limited_to(size: int) -> Iterator[None]:
    """FAISS's own limits on what a hostile file can make it allocate, for one read (FAISS 1.14 and later)."""
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        yield
        return
    bytes_before, loops_before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(bytes_before)
        faiss.set_deserialization_loop_limit(loops_before)
