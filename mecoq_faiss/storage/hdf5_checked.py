"""HDF5 files of strangers: only plain datasets inside the file itself are read, of sizes that the file can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from mecoq_faiss.storage.hdf5_file import open_hdf5

SMALL = 1 << 20  # bytes of a dataset that may be missing from the file: HDF5 fills in zeros
MOST_RATIO = 1100  # of gzip 1032; a dataset that claims more was never written
MOST_CHUNK_BYTES = 1 << 30  # HDF5 unpacks a whole chunk to read one row of it
OTHER = "of another kind"
BLOCK = 1 << 20  # lengths of texts read at once
FEW = 64  # texts read at once where their lengths are not known before
READ_ERRORS = (RuntimeError, KeyError, TypeError, NotImplementedError)  # what h5py says of damage beside OSError


class Wanted(NamedTuple):
    """What a dataset must be.

    Attributes:
        ndims: the numbers of axes it may have; those that share the first axis with the others are of one length.
        types: numpy's short names, such as `u1` and `i8`; `text` for strings. Without any, all of these will do.
        required: refuse a file without it.
    """

    ndims: tuple[int, ...]
    types: tuple[str, ...]
    required: bool = True


@contextmanager
def open_checked(
    source: str | Path | BinaryIO,
    wanted: Mapping[str, Wanted],
    *,
    what: str = "a readable HDF5 file",
    mend: str = "write or copy it again",
    rows: int | None = None,
    own: bool = True,
) -> Iterator[dict[str, h5py.Dataset]]:
    """The wanted datasets of an HDF5 file (its path, or the open file), by name; others in it are passed over.

    Args:
        source: the file.
        wanted: what its datasets must be.
        what: the kind of file, for errors.
        mend: how to mend it, for errors.
        rows: the length of every dataset; by default they have to be of one length.
        own: of a file that this package wrote, whose datasets are contiguous; of others, chunks and filters are read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no HDF5 file, or one with links, groups, data in other files, or shapes that it cannot hold; also
            where HDF5 cannot read what the caller reads. One line that names the file.
    """
    where = str(source if isinstance(source, str | Path) else source.name)
    try:
        with open_hdf5(source) as file:
            try:
                found = _find(file, wanted, source, where, mend, rows, own)
            except READ_ERRORS as error:
                raise _damaged(where, what, mend, error) from error
            yield found
    except OSError as error:
        if error.errno is not None:  # the system's, which names the file
            raise
        raise _damaged(where, what, mend, error) from error
    except RuntimeError as error:
        raise _damaged(where, what, mend, error) from error


def _damaged(where: str, what: str, mend: str, error: Exception) -> ValueError:
    return ValueError(f"{where} is not {what}, or damaged ({one_line(error)}): {mend}")


def one_line(error: Exception) -> str:
    """What an error of a library says, in a line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _find(
    file: h5py.File,
    wanted: Mapping[str, Wanted],
    source: str | Path | BinaryIO,
    where: str,
    mend: str,
    rows: int | None,
    own: bool,
) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    for name, (ndims, types, required) in wanted.items():
        if name not in set(file):
            if required:
                raise ValueError(f"{where} has no dataset {name!r}: {mend}")
            continue
        dataset = plain_dataset(file, name, where, mend, own=own)
        seen = _type_name(dataset.dtype)
        fits = (dataset.ndim in ndims) and (seen in types if types else seen != OTHER)
        if not fits or (own and not dataset.dtype.isnative):
            expected = f"{' or '.join(types) or 'numbers or text'} of {' or '.join(map(str, ndims))} axes"
            raise ValueError(f"{where}: {name} is {seen} of shape {dataset.shape}, expected {expected}: {mend}")
        rows = len(dataset) if rows is None else rows
        if len(dataset) != rows:
            raise ValueError(f"{where}: {name} has {len(dataset)} rows, expected {rows}: {mend}")
        if seen == "text":
            check_texts(dataset, source, where, mend)
        found[name] = dataset
    return found


def plain_dataset(file: h5py.File, name: str, where: str, mend: str, *, own: bool) -> h5py.Dataset:
    """A dataset of the file's root that lies in the file itself, whole; see `open_checked`.

    Raises ValueError, in one line that begins with `where`, for anything else.
    """

    def refused(why: str) -> ValueError:
        return ValueError(f"{where}: {name if name.isprintable() else ascii(name)} {why}: {mend}")

    if file.id.links.get_info(name.encode(errors="surrogateescape")).type != h5py.h5l.TYPE_HARD:
        raise refused("is a link and no dataset")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise refused(f"is a {type(dataset).__name__.lower()} and no dataset")
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise refused("takes its data from other files")
    if dataset.shape is None:
        raise refused("holds nothing")
    count, stored, available = math.prod(dataset.shape), dataset.id.get_storage_size(), file.id.get_filesize()
    if layout == h5py.h5d.CHUNKED:
        if own:
            raise refused("is chunked, which mecoq-faiss does not write")
        size = count * dataset.dtype.itemsize
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > MOST_CHUNK_BYTES:
            raise refused(f"has chunks {dataset.chunks} of more than {MOST_CHUNK_BYTES:,} bytes")
        if stored > available or (size > SMALL and size > MOST_RATIO * stored):
            raise refused(f"claims {dataset.shape}, {size:,} bytes, of which only {stored:,} are stored")
    elif layout == h5py.h5d.CONTIGUOUS and count:
        # in the file a text is a reference, larger than in memory
        offset, size = dataset.id.get_offset(), max(dataset.dtype.itemsize * count, stored)
        if offset is None:
            if own or size > SMALL:
                raise refused(f"claims {dataset.shape}, {size:,} bytes, of which none are stored")
        elif offset + size > available:
            raise refused(f"claims {dataset.shape}, {size:,} bytes, in a file of {available:,}")
    return dataset


def check_texts(dataset: h5py.Dataset, source: str | Path | BinaryIO, where: str, mend: str) -> None:
    """ValueError where strings are together longer than their file: many of them are one, named again and again."""
    if dataset.dtype.kind != "O" or not dataset.size:
        return
    available, offset = dataset.file.id.get_filesize(), dataset.id.get_offset()
    total, n = 0, math.prod(dataset.shape)
    if offset is None:
        for start in range(0, len(dataset), FEW):
            total += sum(map(len, np.ravel(dataset[start : start + FEW])))
            if total > available * MOST_RATIO:
                break
        available *= MOST_RATIO  # references are packed, the texts are not
    elif isinstance(source, str | Path):
        with open(source, "rb") as file:
            total = _text_bytes(file, offset, n, dataset.id.get_storage_size() // n)
    else:
        total = _text_bytes(source, offset, n, dataset.id.get_storage_size() // n)
    if total > available:
        raise ValueError(f"{where}: {dataset.name[1:]} claims {total:,} bytes of text, in {available:,}: {mend}")


def _text_bytes(file: BinaryIO, offset: int, n: int, width: int) -> int:
    """Sum of the lengths of n strings, which stand first in HDF5's references of `width` bytes to them."""
    total = 0
    for start in range(0, n, BLOCK):
        file.seek(offset + start * width)
        raw = np.frombuffer(file.read(min(BLOCK, n - start) * width), np.uint8).reshape(-1, width)
        total += int(raw[:, :4].copy().view("<u4").sum(dtype=np.int64))
    return total


def read_texts(dataset: h5py.Dataset, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Strings of a dataset as str, all or some rows (rising, each once); bytes that are no UTF-8 are shown in hex.

    Raises ValueError, in one line, where they cannot be read.
    """
    try:
        return dataset.asstr(errors="backslashreplace")[rows]
    except (OSError, *READ_ERRORS) as error:
        name = f"{dataset.file.filename}: {dataset.name[1:]}"
        raise ValueError(f"{name} cannot be read ({one_line(error)}): copy the file again") from error


def read_attribute(file: h5py.File, name: str) -> Any:
    """An attribute of the file; None where there is none or it cannot be read."""
    try:
        return file.attrs.get(name)
    except (OSError, *READ_ERRORS, ValueError):
        return None


def _type_name(dtype: np.dtype) -> str:
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    plain = dtype.metadata is None and dtype.subdtype is None and dtype.kind in "biufc"
    return f"{dtype.kind}{dtype.itemsize}" if plain else OTHER
