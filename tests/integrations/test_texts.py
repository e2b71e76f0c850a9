"""Texts that name images: paths, data URIs, base64."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from mecoq_faiss.integrations.texts import images_of


def test_paths_stay_and_bytes_are_decoded(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (home / "query.png").read_bytes()
    text = base64.b64encode(content).decode()
    assert images_of(["a/b.jpg", text, f"data:image/png;base64,{text}"]) == ["a/b.jpg", content, content]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "R0lGODaa").write_bytes(content)  # a file whose name would do as base64
    assert images_of(["R0lGODaa", "R0lGODab"]) == ["R0lGODaa", base64.b64decode("R0lGODab")]


@pytest.mark.parametrize("text", ["data:image/png,abc", "data:image/png;base64,?", "/9j/?" + "A" * 5000])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no image \(.*data:image/jpeg;base64"):
        images_of([text])
