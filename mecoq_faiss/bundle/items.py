"""The items of a bundle: rows in one or more files, the segments, of which some are removed.

A segment is an encoded file and never changes: an update adds one, and lists what is removed in `removed.npy`. Row r of
the index is the r-th item that is left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mecoq_faiss.bundle.folder import ITEMS, Pinned, open_items, read_items
from mecoq_faiss.storage.hdf5_checked import read_texts
from mecoq_faiss.storage.shards import map_array

REMOVED = "removed.npy"


class Items:
    """What a bundle knows of each of its items, by row.

    Args:
        segments: encoded files, their paths or open, oldest first.
        removed: (m,) int64 in rising order: what is removed, counted through all segments.
    """

    def __init__(self, segments: Sequence[Path | BinaryIO], removed: np.ndarray | None = None) -> None:
        self.segments = list(segments)
        self.removed = np.empty(0, np.int64) if removed is None else removed
        self._one_reader = threading.Lock()  # an open file has one place
        with ExitStack() as stack:
            self._open = [stack.enter_context(open_items(segment)) for segment in self.segments]
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

    @cached_property
    def places(self) -> np.ndarray:
        """Where each item lies, counted through all segments, (n,) int64."""
        return np.delete(np.arange(self._starts[-1]), self.removed)

    def column(self, name: str) -> np.ndarray | None:
        """A dataset of all items, (n, ...): a memory map where they lie in one file; None where no segment has it.

        Segments without it, which older versions wrote, count as zeros.
        """
        with self._one_reader:
            held = zip(self.segments, self._open, strict=True)
            parts = [map_array(segment, name) if name in file else None for segment, file in held]
        known = next((part for part in parts if part is not None), None)
        if known is None:
            return None
        if len(parts) == 1 and not len(self.removed):
            return known
        sizes = np.diff(self._starts)
        whole = [
            np.zeros((size, *known.shape[1:]), known.dtype) if part is None else part
            for part, size in zip(parts, sizes, strict=True)
        ]
        return np.concatenate(whole)[self.places]

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
        """(n,) str."""
        with self._one_reader:
            parts = [read_texts(file["paths"]) for file in self._open]
        return np.concatenate(parts)[self.places]

    def paths(self, rows: np.ndarray) -> list[str]:
        """The paths of some rows (m,), of 0 to n - 1, without reading the others."""
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < len(self):
            raise ValueError(f"rows {np.min(rows)} to {np.max(rows)} are not all there: give 0 to {len(self) - 1}")
        if not len(rows):
            return []
        places = np.asarray(rows, np.int64) if not len(self.removed) else self.places[rows]
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
            return read[0]["labels"][self.places], read[0]["class_names"]
        names = list(dict.fromkeys(name for items in read for name in items["class_names"]))
        number = {name: i for i, name in enumerate(names)}
        if any(items["labels"].ndim != 1 for items in read):
            return None, []
        labels = [np.array([number[name] for name in items["class_names"]])[items["labels"]] for items in read]
        return np.concatenate(labels)[self.places], names


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


def read_removed(file: BinaryIO) -> np.ndarray:
    """What `write_removed` wrote."""
    try:
        removed = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file.name} is damaged ({error}): export or copy the bundle again") from error
    if removed.ndim != 1 or removed.dtype != np.int64 or (np.diff(removed) <= 0).any():
        raise ValueError(f"{file.name} is damaged (no rising rows): export or copy the bundle again")
    return removed
