"""Items in several segments, some removed, are read as the rows of one table."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import mecoq_faiss.bundle.items as items_module
from mecoq_faiss.bundle.items import Items, read_removed

SIZES = (50, 9, 21)
REMOVED = np.array([0, 3, 49, 50, 60, 61, 79])
LEFT = np.delete(np.arange(sum(SIZES)), REMOVED)


@pytest.fixture
def segments(tmp_path: Path) -> list[Path]:
    """Codes, ids, paths of three segments; the second one, of an older version, has no error."""
    made, start = [], 0
    for number, size in enumerate(SIZES):
        rows = np.arange(start, start + size)
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["codes"], file["ids"] = np.stack([rows, rows + 1], axis=1).astype(np.uint8), 1000 + rows
            file["paths"] = [f"a/{row:03}.png" for row in rows]
            if number != 1:
                file["error"] = rows.astype(np.float32) + 1
        made.append(path)
        start += size
    return made


def test_columns_are_those_of_all_segments_without_what_is_removed(segments: list[Path]) -> None:
    with Items(segments, REMOVED) as items:
        error = np.where((LEFT >= 50) & (LEFT < 59), 0, LEFT + 1)
        for name, expected in (("ids", 1000 + LEFT), ("codes", np.stack([LEFT, LEFT + 1], axis=1)), ("error", error)):
            lazy, column = items.lazy(name), items.column(name)
            assert lazy is not None and column is not None and len(lazy) == len(items) == len(LEFT)
            np.testing.assert_array_equal(column, expected)
            np.testing.assert_array_equal(lazy[10:60], expected[10:60])
        assert items.column("size") is None and items.lazy("size") is None
        assert items.sizes == list(SIZES)


@pytest.mark.parametrize("many", [1, 1000])  # all paths are read, or few of them
def test_paths_are_found(segments: list[Path], many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "MANY", many)
    wanted = ["none", "a/079.png", "a/078.png", "a/003.png", "a/055.png", "a/001.png"]  # two of them removed
    with Items(segments, REMOVED) as items:
        rows, numbers = items.find(wanted)
        assert LEFT[rows].tolist() == [1, 55, 78] and numbers.tolist() == [5, 4, 2]
        rows, missing = items.rows_at([*wanted, "none"])
        assert LEFT[rows].tolist() == [1, 55, 78] and missing == ["none", "a/079.png", "a/003.png"]
        assert items.paths(rows) == ["a/001.png", "a/055.png", "a/078.png"]


def test_few_paths_are_found_without_reading_the_others(segments: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with Items(segments, REMOVED) as items:
        monkeypatch.setattr(items, "each_path", lambda: pytest.fail("all paths were read"))
        assert LEFT[items.find(["a/055.png"])[0]].tolist() == [55]


def test_paths_that_are_shown_in_hex_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["codes"], file["ids"] = np.zeros((20, 2), np.uint8), np.arange(20)
        file["paths"] = np.array([b"%d\xff" % i for i in range(20)], object)
    with Items([tmp_path / "a.h5"]) as items:
        assert items.find([items.paths(np.array([7]))[0]])[0].tolist() == [7]


def test_ids_are_found(segments: list[Path]) -> None:
    with Items(segments, REMOVED) as items:
        assert LEFT[items.rows_of(np.array([1078, 1003, 5, 1001]))].tolist() == [1, 78]


def test_items_of_one_segment_more(segments: list[Path]) -> None:
    with Items(segments[:2], np.array([3])) as before, Items(segments, REMOVED, before) as after:
        np.testing.assert_array_equal(after.ids, 1000 + LEFT)
        assert len(before) == 58 and before.paths(np.array([3])) == ["a/004.png"]


@pytest.mark.parametrize("wrong", [np.array([3, 2]), np.array([0.5]), np.array([[1]])])
def test_what_is_no_list_of_removed_items(tmp_path: Path, wrong: np.ndarray) -> None:
    np.save(tmp_path / "removed.npy", wrong)
    with open(tmp_path / "removed.npy", "rb") as file, pytest.raises(ValueError, match="damaged"):
        read_removed(file)


def test_removed_items_that_are_not_there(segments: list[Path]) -> None:
    with pytest.raises(ValueError, match="not there"):
        Items(segments, np.array([80]))
