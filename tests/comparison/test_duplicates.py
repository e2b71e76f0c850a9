"""The page of duplicates holds its pictures, and nothing that names of strangers could put there."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from mecoq_faiss.bundle.duplicates import Duplicate
from mecoq_faiss.comparison.duplicates import THUMBNAIL, write_duplicates
from mecoq_faiss.data.sources import open_source

NAME = "<script>alert(1)<script>.png"
GROUPS = [
    [Duplicate(1, "0.png", 2.0, True), Duplicate(4, NAME, 1.9, False)],
    [Duplicate(2, "broken.png", 2.0, True), Duplicate(3, "gone.png", 2.0, True)],
]


def test_it_holds_the_pictures_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("0.png", NAME):
        Image.new("RGB", (300, 150), "red").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    write_duplicates(tmp_path / "page.html", "a <b>", GROUPS, open_source(tmp_path / "photos", "database"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 2 and page.count("data:image/jpeg;base64,") == 2
    assert re.findall(r'width="(\d+)" height="(\d+)"', page) == [(str(THUMBNAIL), str(THUMBNAIL // 2))] * 2
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "a &lt;b&gt;" in page and "http" not in page


def test_without_images_it_has_none(tmp_path: Path) -> None:
    write_duplicates(tmp_path / "page.html", "bundle", GROUPS, None)
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and page.count("<section>") == 2 and "gone.png" in page
