"""Sources that lie elsewhere, on a file system of fsspec in memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import open_source

fsspec = pytest.importorskip("fsspec")


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MECOQ_FAISS_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name, value in (("a/0.png", 0), ("b/1.png", 1), ("b/notes.txt", 9)):
        system.pipe(f"/bucket/photos/{name}", png(value))
    return system


def reds(source) -> list[int]:
    return [np.asarray(source.open(i))[0, 0, 0].item() for i in range(len(source))]


def test_a_folder_is_copied_and_followed(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("memory://bucket/photos", "train")
    assert (source.paths, source.class_names, source.name) == (
        ("a/0.png", "b/1.png"), ("a", "b"), "memory://bucket/photos"
    )  # fmt: skip
    assert reds(source) == [0, 1]
    opened: set[str] = set()
    plain = type(bucket).open

    def watched(self, path, *a, **k):
        opened.add(path.rpartition("/")[2])
        return plain(self, path, *a, **k)

    monkeypatch.setattr(type(bucket), "open", watched)
    open_source("memory://bucket/photos", "train")
    assert not opened
    bucket.pipe("/bucket/photos/b/1.png", png(200))
    bucket.pipe("/bucket/photos/b/2.png", png(2))
    bucket.rm("/bucket/photos/a/0.png")
    source = open_source("memory://bucket/photos", "train")
    assert source.paths == ("b/1.png", "b/2.png") and reds(source) == [200, 2]
    assert opened == {"1.png", "2.png"}


def test_a_single_file(bucket) -> None:
    out = io.BytesIO()
    np.save(out, np.ones((5, 3), np.float32))
    bucket.pipe("/bucket/x.npy", out.getvalue())
    assert len(open_source("memory://bucket/x.npy", "train")) == 5


def test_what_is_wrong_is_told_in_one_line(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="memory://bucket/none"):
        open_source("memory://bucket/none", "train")
    with pytest.raises((ValueError, ImportError, OSError), match="nonsense"):
        open_source("nonsense://bucket/x", "train")
    monkeypatch.setattr(
        type(bucket), "find", lambda *a, **k: {"/bucket/photos/../../x.png": {"type": "file", "size": 1}}
    )
    with pytest.raises(ValueError, match="leads out of its folder"):
        open_source("memory://bucket/photos", "train")


def test_a_copy_that_breaks_off_leaves_the_old_one(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    open_source("memory://bucket/photos", "train")
    bucket.pipe("/bucket/photos/b/1.png", png(200))

    plain = type(bucket).open

    def cut(self, path, *a, **k):
        return io.BytesIO(plain(self, path, *a, **k).read()[:-5])

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "open", cut)
        with pytest.raises(OSError, match=r"1\.png cannot be copied: .* bytes arrived"):
            open_source("memory://bucket/photos", "train")
    assert reds(open_source("memory://bucket/photos", "train")) == [0, 200]
