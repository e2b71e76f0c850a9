"""What is read of a dataset in several segments is that of all of them joined, without what is removed."""

import numpy as np
import pytest

from mecoq_faiss.bundle.column import Column

PARTS = [np.arange(21).reshape(7, 3), None, 100 + np.arange(12).reshape(4, 3)]
STARTS = np.array([0, 7, 9, 13])
WHOLE = np.concatenate([PARTS[0], np.zeros((2, 3), np.int64), PARTS[2]])  # type: ignore[list-item]


def column(removed: list[int]) -> tuple[Column, np.ndarray]:
    left = np.delete(np.arange(13), removed)
    return Column(PARTS, STARTS, np.array(removed, np.int64), lambda rows: left[rows]), WHOLE[left]


@pytest.mark.parametrize("removed", [[], [0, 6, 7], [8, 12], [2, 3, 4, 5, 6, 7, 8, 9]])
def test_slices_and_rows_are_those_of_the_array(removed: list[int]) -> None:
    lazy, expected = column(removed)
    n = len(expected)
    assert (lazy.shape, lazy.dtype, lazy.ndim, len(lazy)) == (expected.shape, expected.dtype, 2, n)
    for first in range(-1, n + 1):
        for end in range(first, n + 2):
            np.testing.assert_array_equal(lazy[first:end], expected[first:end])
    for rows in (np.array([n - 1, 0, 2, 0]), np.array([[1, 1], [3, 0]]), np.empty(0, np.int64), np.arange(n)[::-1]):
        np.testing.assert_array_equal(lazy[rows], expected[rows])
    for part in (slice(None), slice(None, None, 2), slice(None, None, -1)):
        np.testing.assert_array_equal(lazy[part], expected[part])
    np.testing.assert_array_equal(np.asarray(lazy), expected)


def test_a_part_of_one_segment_is_not_copied() -> None:
    lazy, _ = column([6])
    assert np.shares_memory(lazy[1:4], PARTS[0])  # type: ignore[arg-type]
    assert not np.shares_memory(np.asarray(lazy), PARTS[0])  # type: ignore[arg-type]
