"""A dataset of items in several segments, of which some rows are removed: only what is asked for is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BLOCK = 1 << 16  # rows read together


class Column:
    """Looks like an array (n, ...), and gives arrays for slices and for rows of any order and shape.

    Args:
        parts: each segment's array, None where it has none: its items count as zeros.
        starts: (s + 1,) int64, where each segment starts and the last one ends, counted through all of them.
        n: how many items there are.
        places: where rows lie, counted through all segments.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray | None],
        starts: np.ndarray,
        n: int,
        places: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        known = next(part for part in parts if part is not None)
        self._parts, self._starts, self._places = parts, starts, places
        self.shape, self.dtype, self.ndim = (n, *known.shape[1:]), known.dtype, known.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            numbers = range(*rows.indices(len(self)))
            found = np.zeros((len(numbers), *self.shape[1:]), self.dtype)
            for first in range(0, len(numbers), BLOCK):
                part = numbers[first : first + BLOCK]
                self._read(np.arange(part.start, part.stop, part.step), found[first : first + BLOCK])
            return found
        found = np.zeros((rows.size, *self.shape[1:]), self.dtype)
        self._read(rows.ravel(), found)
        return found.reshape(*rows.shape, *self.shape[1:])

    def _read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows (m,) into zeros (m, ...)."""
        places = self._places(rows)
        for part, start, end in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            here = np.flatnonzero((places >= start) & (places < end))
            if part is not None and len(here):
                out[here] = part[places[here] - start]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
