"""What became of a collection since a bundle was made of it: what is new, gone, altered or under another name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from mecoq_faiss.bundle.items import Items, stored
from mecoq_faiss.data.sources import Source


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
    source are gone where it is the `whole` collection; else they stay.
    """
    at = {stored(path): row for row, path in enumerate(source.paths)}
    sizes, times, digests = (items.column(name) for name in ("size", "mtime_ns", "sha256"))
    kept = np.zeros(len(items), bool)
    matched = np.zeros(len(source), bool)  # by an item that stays as it is
    known_paths = np.zeros(len(source), bool)
    unknown = 0
    fresh: dict[int, bytes] = {}  # rows of the source -> SHA-256, where it was computed
    for rows, paths in items.each_path():
        for old, path in zip(rows.tolist(), paths, strict=True):
            row = at.get(path)
            if row is None:
                kept[old] = not whole
                continue
            known_paths[row] = True
            if sizes is None or times is None or digests is None or not digests[old].any():  # of an older version
                same, unknown = True, unknown + 1
            else:
                size, time = source.size_and_time(row)
                same = time != 0 and (size, time) == (sizes[old], times[old])
                if not same and size == sizes[old]:
                    fresh[row] = _digest(source, row)
                    same = fresh[row] == digests[old].tobytes()
            kept[old] = matched[row] = same
    new = np.flatnonzero(~matched).tolist()
    lost: dict[bytes, list[int]] = defaultdict(list)
    for old in np.flatnonzero(~kept)[::-1].tolist() if digests is not None else ():
        if digests is not None and digests[old].any():
            lost[digests[old].tobytes()].append(old)
    moved: list[tuple[int, int]] = []
    still_new = []
    for row in new:
        candidates = lost.get(fresh.get(row) or _digest(source, row), []) if lost else []
        if candidates:
            moved.append((candidates.pop(), row))
        else:
            still_new.append(row)
    renamed = np.array(moved, np.int64).reshape(-1, 2)
    renamed = renamed[np.argsort(renamed[:, 0])]
    stays = kept.copy()
    stays[renamed[:, 0]] = True
    return Changes(
        gone=np.flatnonzero(~stays),
        moved=renamed[:, 0],
        moved_to=renamed[:, 1],
        new=np.array(still_new, np.int64),
        altered=int(known_paths[still_new].sum()) if still_new else 0,
        unchanged=int(kept.sum()),
        unknown=unknown,
    )


def _digest(source: Source, row: int) -> bytes:
    """The SHA-256 of an image, which is nobody's where it cannot be read: encoding will say so."""
    try:
        return source.digest(row)
    except OSError:
        return b""
