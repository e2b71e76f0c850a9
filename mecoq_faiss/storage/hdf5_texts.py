"""Rows of an HDF5 dataset of strings that hold one of some texts, found in the file's bytes without making strings.

HDF5 keeps a string as a reference to a heap in the file and its number there. A heap holds strings in any order; each
begins a multiple of 8 bytes behind the heap's start with a header that tells its number and its length. So the heaps
are searched for the texts, and the references for what was found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
SIGNATURE = int.from_bytes(b"GCOL\1\0\0\0", "little")  # a heap's first 8 bytes; the next 8 are its size
LARGEST_HEAP = 1 << 26  # bytes; HDF5 makes them of 64 KB, and larger ones for larger strings
PRIME = np.uint64(0x9E3779B97F4A7C15)
LAST = np.uint64(48)  # by so much a key is shifted for its highest bits
BLOCK = 1 << 17  # strings, or times 8 bytes of heaps, looked at together


def likely_rows(dataset: h5py.Dataset, source: Path | BinaryIO, texts: Collection[bytes]) -> np.ndarray:
    """Rows (m,) int64, rising: all that hold one of the texts, and hardly one that does not.

    They are all rows where the file does not lie as HDF5 usually writes it.

    Args:
        dataset: strings (n,) of `source`, plain as `hdf5_checked.plain_dataset` knows it.
        source: the file, its path or open.
        texts: what is looked for.
    """
    n, offset = len(dataset), dataset.id.get_offset()
    if not texts or not n:
        return np.empty(0, np.int64)
    if offset is None or dataset.id.get_storage_size() != n * REFERENCE.itemsize or b"" in texts:
        return np.arange(n)
    references = np.memmap(source, REFERENCE, "r", offset, (n,))
    file = np.memmap(source, np.uint8, "r", 0, (dataset.file.id.get_filesize(),))
    regions = _regions(file, references)
    if regions is None:
        return np.arange(n)
    lengths = np.array([len(text) for text in texts], np.int64)
    known = np.zeros(int(lengths.max()) + 1, bool)
    known[lengths] = True
    wanted = np.sort(_keys_of(texts, lengths))
    ends = np.zeros(1 << 16, bool)
    ends[wanted >> LAST] = True
    found = [_found(file, region, known, wanted, ends) for region in regions]
    sought = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)
    rows = [start + np.flatnonzero(np.isin(_places(part), sought)) for start, part in _parts(references)]
    return np.concatenate(rows)


def _parts(references: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(references), BLOCK):
        yield start, references[start : start + BLOCK]


def _places(references: np.ndarray) -> np.ndarray:
    """One number for heap and number of each reference, (b,) uint64."""
    return (references["heap"] << np.uint64(16)) + references["number"]


def _regions(file: np.ndarray, references: np.ndarray) -> list[np.ndarray] | None:
    """The heaps that the references name, some that lie side by side together: their places (h + 1,), and the end.

    None where one is no heap.
    """
    firsts = [part["heap"][np.append(True, part["heap"][1:] != part["heap"][:-1])] for _, part in _parts(references)]
    at = np.unique(np.concatenate(firsts))
    if at[-1] > len(file) - 16:
        return None
    at = at.astype(np.int64)
    signature, size = file[at[:, None] + np.arange(16)].view("<u8").T
    if (signature != SIGNATURE).any() or (size & np.uint64(7)).any() or size.max() > LARGEST_HEAP:
        return None
    ends = at + size.astype(np.int64)
    if ends[-1] > len(file) or (at[1:] < ends[:-1]).any():
        return None
    regions: list[np.ndarray] = []
    first = 0
    for number in range(1, len(at) + 1):
        if number == len(at) or at[number] != ends[number - 1] or ends[number] - at[first] > 8 * BLOCK:
            regions.append(np.append(at[first:number], ends[number - 1]))
            first = number
    return regions


def _found(file: np.ndarray, region: np.ndarray, known: np.ndarray, wanted: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The places (m,) of strings of a region whose lengths are `known` and whose keys are `wanted`, rising.

    `ends` tells which highest bits keys have, sooner than `wanted` does.
    """
    part = np.array(file[region[0] : region[-1]]).view("<u8")
    length = part[1:]
    at = np.flatnonzero(length < len(known))
    at = at[known[length[at].astype(np.int64)] & (part[at] >> np.uint64(32) == 0)]  # the header's last 4 bytes are 0
    length = length[at].astype(np.int64)
    whole = at + 2 + (length + 7 >> 3) <= len(part)
    at, length = at[whole], length[whole]
    key = _keys(part, at + 2, length)
    likely = np.flatnonzero(ends[key >> LAST])
    hit = at[likely[np.isin(key[likely], wanted)]]
    heaps = region[np.searchsorted(region, 8 * hit + region[0], side="right") - 1].astype(np.uint64)
    return (heaps << np.uint64(16)) + (part[hit] & np.uint64(0xFFFF))


def _keys(words: np.ndarray, at: np.ndarray, length: np.ndarray) -> np.ndarray:
    """A hash (b,) uint64 of each text of `length` bytes from word `at` on; what is behind its end does not count."""
    key = length.astype(np.uint64)
    for number in range(int(length.max(initial=0)) + 7 >> 3):
        here = np.flatnonzero(length > 8 * number)
        over = np.maximum(8 * (number + 1) - length[here], 0).astype(np.uint64)  # bytes behind the end
        mixed = (key[here] ^ (words[at[here] + number] & (~np.uint64(0) >> (over << np.uint64(3))))) * PRIME
        key[here] = mixed ^ (mixed >> np.uint64(29))
    return key


def _keys_of(texts: Collection[bytes], lengths: np.ndarray) -> np.ndarray:
    widths = lengths + 7 >> 3
    padded = b"".join(text.ljust(8 * int(width), b"\0") for text, width in zip(texts, widths, strict=True))
    return _keys(np.frombuffer(padded, "<u8"), np.cumsum(widths) - widths, lengths)
