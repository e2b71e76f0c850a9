"""A dataset of items in several segments, of which some rows are removed: only what is asked for is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np


class Column:
    """Looks like an array (n, ...), and gives arrays for slices and for rows of any order and shape.

    Args:
        parts: each segment's array, None where it has none: its items count as zeros.
        starts: (s + 1,) int64, where each segment starts and the last one ends, counted through all of them.
        removed: (m,) int64, rising, where those lie that are removed.
        places: where rows lie.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray | None],
        starts: np.ndarray,
        removed: np.ndarray,
        places: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        known = next(part for part in parts if part is not None)
        self.shape, self.dtype, self.ndim = (int(starts[-1]) - len(removed), *known.shape[1:]), known.dtype, known.ndim
        shapes = [(end - start, *self.shape[1:]) for start, end in pairwise(starts.tolist())]
        zeros = np.zeros((), self.dtype)
        self._parts = [
            np.broadcast_to(zeros, shape) if part is None else np.asarray(part)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        self._starts, self._removed, self._places = starts, removed, places

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            return self._between(first, max(first, end))[::step] if step > 0 else self[np.arange(first, end, step)]
        places = self._places(rows.ravel())
        found = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for part, start, end in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            here = np.flatnonzero((places >= start) & (places < end))
            found[here] = part[places[here] - start]
        return found.reshape(*rows.shape, *self.shape[1:])

    def _between(self, first: int, end: int) -> np.ndarray:
        """Rows `first` to `end` - 1; of one segment, where none of them is removed, without a copy."""
        if first == end:
            return np.empty((0, *self.shape[1:]), self.dtype)
        low, high = self._places(np.array([first, end - 1])).tolist()
        high += 1
        parts = [
            part[max(low - start, 0) : high - start]
            for part, start, over in zip(self._parts, *self._bounds(), strict=True)
            if low < over and start < high
        ]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        gone = self._removed[slice(*np.searchsorted(self._removed, (low, high)))]
        return np.delete(whole, gone - low, axis=0) if len(gone) else whole

    def _bounds(self) -> tuple[list[int], list[int]]:
        return self._starts[:-1].tolist(), self._starts[1:].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)
