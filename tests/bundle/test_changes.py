"""What became of a collection: found by path, then size and time, then content; few paths as many."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import mecoq_faiss.bundle.items as items_module
from mecoq_faiss.bundle.changes import find_changes
from mecoq_faiss.bundle.items import Items


class Folder:
    """A source of images: path -> (content, time)."""

    def __init__(self, images: dict[str, tuple[bytes, int]]) -> None:
        self.paths, self._images, self.digested = list(images), list(images.values()), 0

    def __len__(self) -> int:
        return len(self.paths)

    def size_and_time(self, row: int) -> tuple[int, int]:
        content, time = self._images[row]
        return len(content), time

    def digest(self, row: int) -> bytes:
        self.digested += 1
        return hashlib.sha256(self._images[row][0]).digest()


OLD = {f"{i}.png": (b"%d" % i, 10 + i) for i in range(9)}


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["codes"], file["ids"], file["paths"] = np.zeros((9, 2), np.uint8), np.arange(9), list(OLD)
        file["size"] = [len(content) for content, _ in OLD.values()]
        file["mtime_ns"] = [time for _, time in OLD.values()]
        digests = b"".join(hashlib.sha256(content).digest() for content, _ in OLD.values())
        file["sha256"] = np.frombuffer(digests, np.uint8).reshape(9, 32)
    return tmp_path / "a.h5"


def changes_to(segment: Path, images: dict[str, tuple[bytes, int]], whole: bool) -> Any:
    source: Any = Folder(images)
    with Items([segment], np.array([8])) as items:
        return find_changes(items, source, whole=whole), source


def test_a_whole_collection(segment: Path) -> None:
    now = {**OLD, "new.png": (b"new", 1), "0.png": (b"x", 5), "1.png": (b"1", 99), "moved.png": OLD["2.png"]}
    del now["2.png"], now["3.png"]
    found, source = changes_to(segment, now, whole=True)
    names = [source.paths[row] for row in found.new]
    assert sorted(names) == ["0.png", "8.png", "new.png"], "the removed 8 is new again"
    assert found.gone.tolist() == [0, 3] and found.moved.tolist() == [2]
    assert source.paths[found.moved_to[0]] == "moved.png"
    assert (found.altered, found.unchanged, found.unknown) == (1, 5, 0)


@pytest.mark.parametrize("many", [1, 1000])
def test_some_images(segment: Path, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "MANY", many)
    now = {"5.png": OLD["5.png"], "0.png": (b"x", 5), "new.png": (b"new", 1)}
    found, _ = changes_to(segment, now, whole=False)
    assert found.new.tolist() == [1, 2] and found.gone.tolist() == [0] and not len(found.moved)
    assert (found.altered, found.unchanged) == (1, 7)


def test_content_is_read_only_where_size_and_time_leave_a_doubt(segment: Path) -> None:
    _, source = changes_to(segment, {name: OLD[name] for name in list(OLD)[:8]}, whole=True)
    assert source.digested == 0
