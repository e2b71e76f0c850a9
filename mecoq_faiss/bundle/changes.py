"""What became of a collection since a bundle was made of it: what is new, gone, altered or under another name."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from mecoq_faiss.bundle.items import BLOCK, Items
from mecoq_faiss.data.sources import Source

logger = logging.getLogger("mecoq_faiss")


@dataclass(frozen=True)
class Changes:
    """Rows of the bundle's items, and rows of the source.

    Attributes:
        gone: (g,) rows of items whose image is no longer there, or has another content now; in rising order.
        moved: (m,) rows of items whose image only has another path, and `moved_to` (m,) its row in the source.
        new: (a,) rows of the source to be encoded, in rising order.
        altered: how many of `new` have a path that the bundle knows.
        unchanged: how many items stay.
        unknown: how many of these were kept by their path alone, as the bundle has no content hash of them.
    """

    gone: np.ndarray
    moved: np.ndarray
    moved_to: np.ndarray
    new: np.ndarray
    altered: int
    unchanged: int
    unknown: int

    def __bool__(self) -> bool:
        return bool(len(self.gone) or len(self.moved) or len(self.new))

    def summary(self) -> dict[str, int]:
        """Counts: `added`, `altered`, `removed`, `renamed`, `unchanged`, `without_hash`."""
        return {
            "added": len(self.new) - self.altered,
            "altered": self.altered,
            "removed": len(self.gone) - self.altered,
            "renamed": len(self.moved),
            "unchanged": self.unchanged,
            "without_hash": self.unknown,
        }


def find_changes(items: Items, source: Source, *, whole: bool = True) -> Changes:
    """Compare a source with a bundle's items: by size and time first, by content where those differ.

    An image is known by its path. Where size or time of writing differ (or no time is known), its SHA-256 decides. One
    under a new path whose SHA-256 is that of an item that is gone is that item, renamed. Items whose path is not in the
    source are gone where it is the `whole` collection; else they stay. ValueError where the source has a path twice.
    """
    if len(set(source.paths)) < len(source):
        path, count = Counter(source.paths).most_common(1)[0]
        raise ValueError(f"{source.name}: {count} rows have the path {path!r}: items are known by theirs, make it one")
    found, rows_of_source = items.find(source.paths)
    fresh: dict[int, bytes] = {}  # rows of the source -> SHA-256, where it was computed
    same, unknown = _compared(items, source, found, rows_of_source, fresh)
    matched = np.zeros(len(source), bool)  # by an item that stays as it is
    matched[rows_of_source[same]] = True
    known_paths = np.zeros(len(source), bool)
    known_paths[rows_of_source] = True
    lost_rows = found[~same]
    if whole:
        kept = np.zeros(len(items), bool)
        kept[found[same]] = True
        lost_rows = np.flatnonzero(~kept)
    lost = _by_content(items, lost_rows)
    moved: list[tuple[int, int]] = []
    still_new = []
    for row in np.flatnonzero(~matched).tolist():
        candidates = lost.get(fresh.get(row) or _digest(source, row), []) if lost else []
        if candidates:
            moved.append((candidates.pop(), row))
        else:
            still_new.append(row)
    renamed = np.array(moved, np.int64).reshape(-1, 2)
    renamed = renamed[np.argsort(renamed[:, 0])]
    return Changes(
        gone=np.setdiff1d(lost_rows, renamed[:, 0], assume_unique=True),
        moved=renamed[:, 0],
        moved_to=renamed[:, 1],
        new=np.array(still_new, np.int64),
        altered=int(known_paths[still_new].sum()) if still_new else 0,
        unchanged=len(items) - len(lost_rows),
        unknown=unknown,
    )


def _compared(
    items: Items, source: Source, found: np.ndarray, rows_of_source: np.ndarray, fresh: dict[int, bytes]
) -> tuple[np.ndarray, int]:
    """Which items (m,) have the content of rows of a source (m,), and how many of them by their path alone.

    SHA-256 that were computed come into `fresh`.
    """
    columns = [items.lazy(name) for name in ("size", "mtime_ns", "sha256")]
    same, unknown = np.ones(len(found), bool), 0
    if any(column is None for column in columns):  # of an older version
        return same, len(found)
    for start in range(0, len(found), BLOCK):
        sizes, times, digests = (column[found[start : start + BLOCK]] for column in columns if column is not None)
        for i, row in enumerate(rows_of_source[start : start + BLOCK].tolist()):
            if not digests[i].any():
                unknown += 1
                continue
            size, time = source.size_and_time(row)
            equal = time != 0 and (size, time) == (sizes[i], times[i])
            if not equal and size == sizes[i]:
                fresh[row] = _digest(source, row)
                equal = fresh[row] == digests[i].tobytes()
            same[start + i] = equal
    return same, unknown


def _by_content(items: Items, rows: np.ndarray) -> dict[bytes, list[int]]:
    """SHA-256 -> those of some rows (m,) that have it, falling; without those of which it is not known."""
    digests = items.lazy("sha256")
    found: dict[bytes, list[int]] = defaultdict(list)
    if digests is not None:
        for row, digest in zip(rows[::-1].tolist(), digests[rows[::-1]], strict=True):
            if digest.any():
                found[digest.tobytes()].append(row)
    return found


def _digest(source: Source, row: int) -> bytes:
    """The SHA-256 of an image, which is nobody's where it cannot be read."""
    try:
        return source.digest(row)
    except OSError as error:
        logger.warning("%s: not compared by content (%s), taken as new", source.paths[row], error.strerror or error)
        return b""
