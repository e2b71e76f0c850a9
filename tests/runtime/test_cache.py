"""Where the cache lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from mecoq_faiss.runtime.cache import cache_folder, make_folder


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("MECOQ_FAISS_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("MECOQ_FAISS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/mecoq-faiss")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mecoq-faiss"


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"file/b cannot be made \(Not a directory\): name another folder"):
        make_folder(tmp_path / "file" / "b")
