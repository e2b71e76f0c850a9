"""Small pictures that a page holds in itself."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

from PIL import Image

from mecoq_faiss.data.sources import ImageSource


def thumbnail(source: ImageSource, row: int, pixels: int) -> dict[str, Any]:
    """`src` (a data URI), `width` and `height` of an image with no side above `pixels`; raises UnreadableImage."""
    image = source.open(row, draft=pixels)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    src = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"src": src, "width": image.width, "height": image.height}
