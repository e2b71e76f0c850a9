"""Where the cache lies."""

from __future__ import annotations

from pathlib import Path

from mecoq_faiss.runtime.cache import cache_folder


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("MECOQ_FAISS_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("MECOQ_FAISS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/mecoq-faiss")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mecoq-faiss"
