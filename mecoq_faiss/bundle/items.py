"""The items of a bundle: rows in one or more files, the segments, of which some are removed.

A segment is an encoded file and never changes: an update adds one, and lists what is removed in `removed.npy`. Row r of
the index is the r-th item that is left.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np

from mecoq_faiss.bundle.column import Column
from mecoq_faiss.bundle.folder import ITEMS, Pinned, open_items, read_items
from mecoq_faiss.storage.hdf5_checked import read_texts
from mecoq_faiss.storage.hdf5_texts import likely_rows
from mecoq_faiss.storage.npy import check_int64
from mecoq_faiss.storage.shards import map_array

REMOVED = "removed.npy"
BLOCK = 1 << 16  # items looked at together
MANY = 8  # where so many items are to one path that is looked for, not all paths are read


class Items:
    """What a bundle knows of each of its items, by row.

    Args:
        segments: encoded files, their paths or open, oldest first.
        removed: (m,) int64 in rising order: what is removed, counted through all segments.
        before: items of which the first segments are these ones'; they stay open for both.
    """

    def __init__(
        self,
        segments: Sequence[Path | BinaryIO],
        removed: np.ndarray | None = None,
        before: Items | None = None,
    ) -> None:
        self.segments = list(segments)
        self.removed = np.empty(0, np.int64) if removed is None else removed
        self._one_reader = threading.Lock()  # an open file has one place
        with ExitStack() as stack:
            self._open: list[dict[str, h5py.Dataset]] = [] if before is None else list(before._open)
            self._open += [stack.enter_context(open_items(new)) for new in self.segments[len(self._open) :]]
            self._starts = np.concatenate([[0], np.cumsum([len(file["ids"]) for file in self._open])]).astype(np.int64)
            if len(self.removed) and not 0 <= self.removed[0] <= self.removed[-1] < self._starts[-1]:
                raise ValueError(f"{REMOVED} names items that are not there: export or copy the bundle again")
            self._files = stack.pop_all()

    def __enter__(self) -> Items:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def __len__(self) -> int:
        return int(self._starts[-1]) - len(self.removed)

    @property
    def sizes(self) -> list[int]:
        """How many items each segment holds, removed ones too."""
        return np.diff(self._starts).tolist()

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where the items of some rows (m,) lie, counted through all segments, (m,) int64."""
        return rows + np.searchsorted(self._kept_before, rows, side="right") if len(self.removed) else rows

    @cached_property
    def _kept_before(self) -> np.ndarray:
        """How many items are left before each that is removed, (m,) int64."""
        return self.removed - np.arange(len(self.removed))

    def column(self, name: str) -> np.ndarray | None:
        """A dataset of all items, (n, ...): a memory map where they lie in one file; None where no segment has it.

        Segments without it, which older versions wrote, count as zeros.
        """
        column = self.lazy(name)
        return None if column is None else np.asarray(column)

    def lazy(self, name: str) -> np.ndarray | None:
        """The same as `column`, but that only what is asked for is read, wherever it lies: an array or a `Column`."""
        with self._one_reader:
            held = zip(self.segments, self._open, strict=True)
            parts = [map_array(segment, name) if name in file else None for segment, file in held]
        if len(parts) == 1 and not len(self.removed):
            return parts[0]
        if all(part is None for part in parts):
            return None
        return cast(np.ndarray, Column(parts, self._starts, self.removed, self.places))

    def _blocks(self) -> Iterator[tuple[int, np.ndarray, int]]:
        """All items some at a time: the segment's number, the places in it that are left, the row of the first."""
        row = 0
        for number, (start, end) in enumerate(pairwise(self._starts.tolist())):
            for low in range(start, end, BLOCK):
                high = min(end, low + BLOCK)
                gone = self.removed[slice(*np.searchsorted(self.removed, (low, high)))]
                places = np.delete(np.arange(low, high), gone - low) - start
                if len(places):
                    yield number, places, row
                row += len(places)

    def each_path(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """All items some at a time: rows (b,) and their paths; memory does not grow with n."""
        for number, places, first in self._blocks():
            low, high = int(places[0]), int(places[-1]) + 1
            with self._one_reader:
                texts = read_texts(self._open[number]["paths"], slice(low, high))
            yield first + np.arange(len(places)), texts[places - low].tolist()

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows, rising, of the items that have these ids (m,); ids that no item has are passed over."""
        with self._one_reader:
            own = [map_array(segment, "ids") for segment in self.segments]
        found = [first + np.flatnonzero(np.isin(own[number][places], ids)) for number, places, first in self._blocks()]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def rows_at(self, paths: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """The rows of the items that have some paths, and the paths that no item has."""
        rows, numbers = self.find(paths)
        there = {stored(paths[number]) for number in numbers.tolist()}
        missing = [path for path in dict.fromkeys(paths) if stored(path) not in there]
        return rows[np.sort(np.unique(numbers, return_index=True)[1])], missing

    def find(self, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Items that have one of some paths: their rows (m,) int64, rising, and their paths' numbers (m,) int64.

        Of few paths the others are not read.
        """
        number_of = {stored(path): number for number, path in enumerate(paths)}
        few = len(paths) < len(self) // MANY
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for rows, block in self._likely(list(number_of)) if few else self.each_path():
            numbers = np.array([number_of.get(path, -1) for path in block], np.int64)
            found.append((rows[numbers >= 0], numbers[numbers >= 0]))
        rows, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return rows, numbers

    def _likely(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Rows (b,) of all items that have these paths, and of few others, and their paths."""
        if any("\\x" in path for path in paths):  # so those are shown that are no UTF-8
            yield from self.each_path()
            return
        texts = {path.encode() for path in paths}
        for segment, file, start in zip(self.segments, self._open, self._starts[:-1].tolist(), strict=True):
            with self._one_reader:
                places = start + likely_rows(file["paths"], segment, texts)
            places = np.setdiff1d(places, self.removed, assume_unique=True)
            for low in range(0, len(places), BLOCK):
                rows = places[low : low + BLOCK]
                rows = rows - np.searchsorted(self.removed, rows)
                yield rows, self.paths(rows)

    @property
    def codes(self) -> np.ndarray:
        """(n, M) uint8."""
        codes = self.column("codes")
        assert codes is not None
        return codes

    @cached_property
    def ids(self) -> np.ndarray:
        """The items' own ids, which no other item ever gets, (n,) int64."""
        ids = self.column("ids")
        assert ids is not None
        return np.array(ids)

    def all_paths(self) -> np.ndarray:
        """(n,) str objects."""
        return np.array([path for _, paths in self.each_path() for path in paths], dtype=object)

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows (m,), of 0 to n - 1, without reading the others."""
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < len(self):
            raise ValueError(f"rows {np.min(rows)} to {np.max(rows)} are not all there: give 0 to {len(self) - 1}")
        if not len(rows):
            return []
        places = self.places(np.asarray(rows, np.int64))
        wanted, back = np.unique(places, return_inverse=True)  # HDF5 takes rows in rising order, each once
        found = []
        with self._one_reader:
            for file, start, end in zip(self._open, self._starts[:-1], self._starts[1:], strict=True):
                here = wanted[(wanted >= start) & (wanted < end)] - start
                if len(here):
                    found.append(read_texts(file["paths"], here))
        return np.concatenate(found)[back].tolist()

    def labels(self) -> tuple[np.ndarray | None, list[str]]:
        """Labels (n,) int64 or (n, L) uint8, None where a segment has none, and the class names."""
        read = [read_items(segment) for segment in self.segments]
        if any(items["labels"] is None for items in read):
            return None, []
        if len(read) == 1:
            return read[0]["labels"][self.places(np.arange(len(self)))], read[0]["class_names"]
        names = list(dict.fromkeys(name for items in read for name in items["class_names"]))
        number = {name: i for i, name in enumerate(names)}
        if any(items["labels"].ndim != 1 for items in read):
            if not all(items["labels"].ndim == 2 and items["class_names"] == names for items in read):
                return None, []
            return np.concatenate([items["labels"] for items in read])[self.places(np.arange(len(self)))], names
        labels = [np.array([number[name] for name in items["class_names"]])[items["labels"]] for items in read]
        return np.concatenate(labels)[self.places(np.arange(len(self)))], names


def stored(path: str) -> str:
    """A path as segments hold it: file names need not be UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def segment_names(manifest: dict[str, Any]) -> list[str]:
    """The names of a bundle's segments, oldest first."""
    return list(manifest.get("segments", [ITEMS]))


def items_in(files: Pinned) -> Items:
    """The items of an opened bundle, of which all files are opened."""
    removed = None
    if REMOVED in files.manifest["files"]:
        removed = read_removed(files.file(REMOVED))
    return Items([files.file(name) for name in segment_names(files.manifest)], removed)


def items_of_all(bundles: Sequence[Pinned]) -> Items:
    """The items of several opened bundles one after the other, as those of one."""
    segments, removed, total = [], [np.empty(0, np.int64)], 0
    for files in bundles:
        segments += [files.file(name) for name in segment_names(files.manifest)]
        with items_in(files) as items:
            removed.append(items.removed + total)
            total += len(items) + len(items.removed)
    return Items(segments, np.concatenate(removed))


def read_removed(file: BinaryIO) -> np.ndarray:
    """What `write_removed` wrote."""
    try:
        check_int64(file)
        removed = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{file.name} is damaged ({error}): export or copy the bundle again") from error
    if (np.diff(removed) <= 0).any():
        raise ValueError(f"{file.name} is damaged (no rising rows): export or copy the bundle again")
    return removed
