"""Groups of duplicates as one self-contained HTML page, with pictures where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mecoq_faiss.bundle.duplicates import Duplicate
from mecoq_faiss.bundle.items import stored
from mecoq_faiss.comparison.template import template
from mecoq_faiss.data.sources import ImageSource, Source, UnreadableImage
from mecoq_faiss.data.thumbnails import thumbnail
from mecoq_faiss.storage.files import write_text

THUMBNAIL = 128  # pixels


def write_duplicates(path: Path, name: str, groups: Sequence[Sequence[Duplicate]], source: Source | None) -> None:
    """Write the page of a bundle's groups; the pictures are those of `source` that can be read."""
    images = source if isinstance(source, ImageSource) else None
    row_of = {} if images is None else {stored(path): row for row, path in enumerate(images.paths)}
    shown = [[{"item": item, "picture": _picture(images, row_of.get(item.path))} for item in group] for group in groups]
    page = template("duplicates.html").render(
        name=name, groups=shown, items=sum(map(len, groups)), pictures=images is not None
    )
    write_text(path, page)


def _picture(images: ImageSource | None, row: int | None) -> dict[str, Any] | None:
    if images is None or row is None:
        return None
    try:
        return thumbnail(images, row, THUMBNAIL)
    except UnreadableImage:
        return None
