"""Small pictures that a page holds in itself."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from mecoq_faiss.data.sources import ImageSource


def small_jpeg(image: Image.Image, pixels: int, quality: int) -> bytes:
    """An RGB image made small in place, no side above `pixels`, as a JPEG."""
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    out = BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def thumbnail(source: ImageSource, row: int, pixels: int) -> dict[str, Any]:
    """`src` (a data URI), `width` and `height` of an image with no side above `pixels`; raises UnreadableImage."""
    image = source.open(row, draft=pixels)
    src = f"data:image/jpeg;base64,{base64.b64encode(small_jpeg(image, pixels, quality=80)).decode()}"
    return {"src": src, "width": image.width, "height": image.height}
