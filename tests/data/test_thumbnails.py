"""Thumbnails: a small JPEG in a data URI, of the image's own shape, never larger than it."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mecoq_faiss.data.sources import ImageSource, UnreadableImage, open_source
from mecoq_faiss.data.thumbnails import thumbnail


def source_of(folder: Path) -> ImageSource:
    source = open_source(folder, "database")
    assert isinstance(source, ImageSource)
    return source


@pytest.mark.parametrize(("size", "shown"), [((400, 200), (64, 32)), ((30, 300), (6, 64)), ((20, 10), (20, 10))])
def test_it_is_the_image_made_small(size: tuple[int, int], shown: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (200, 30, 90)).save(tmp_path / "0.png")
    found = thumbnail(source_of(tmp_path), 0, 64)
    assert (found["width"], found["height"]) == shown
    kind, _, text = found["src"].partition(",")
    image = Image.open(BytesIO(base64.b64decode(text, validate=True)))
    assert kind == "data:image/jpeg;base64" and image.format == "JPEG" and image.size == shown
    colors = image.convert("RGB").getpixel((shown[0] // 2, shown[1] // 2))
    assert isinstance(colors, tuple)
    assert all(abs(a - b) < 8 for a, b in zip(colors, (200, 30, 90), strict=True))


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"0\.png"):
        thumbnail(source_of(tmp_path), 0, 64)
