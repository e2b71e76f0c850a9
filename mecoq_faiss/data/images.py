"""Decoding one image file to upright RGB."""

from __future__ import annotations

import os
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mecoq_faiss.storage.files import open_regular

IMAGE_TYPES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Only these decoders see a file: others (EPS, for one) start outside programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


MAX_PIXELS = 100_000_000  # of an image, by its header: decoding takes up to 16 bytes for each
MAX_BYTES = 1_000_000_000  # of an image's file
PREFIX = "MECOQ_FAISS_"  # of the environment variables that set other limits


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message names the file and why.

    Example:
        >>> from mecoq_faiss import UnreadableImage, load_encoder
        >>> try:
        ...     load_encoder("bundle").encode(b"no image")
        ... except UnreadableImage:
        ...     print("send another")
        send another
    """


def decode_image(
    file: str | Path | BinaryIO | bytes, *, draft: int | None = None, name: str | None = None
) -> Image.Image:
    """Decode one image to an upright RGB image (first frame; transparency on white; 16-bit grey scaled to 8).

    Args:
        file: path, open binary file, or the file's bytes (types: ``IMAGE_TYPES``).
        draft: shorter side wanted, in pixels: a large JPEG is then decoded at 1/2, 1/4 or 1/8 of its
            size, never below ``draft``. Other types ignore it.
        name: what to call the image in an error; by default its path.

    Raises:
        UnreadableImage: missing, truncated, no regular file, not an image, or above `MAX_BYTES`, `MAX_PIXELS` or PIL's
            own limit against decompression bombs.
        ValueError: an environment variable that sets a limit is no number.
    """
    if name is None:
        name = str(file) if isinstance(file, str | Path) else str(getattr(file, "name", "image"))
    name = name if name.isprintable() else repr(name)[1:-1]  # in one line, whatever a file is called
    most_bytes, most_pixels = limit("MAX_BYTES", MAX_BYTES), limit("MAX_PIXELS", MAX_PIXELS)
    try:
        with ExitStack() as stack:
            opened: BinaryIO
            if isinstance(file, bytes):
                size, opened = len(file), BytesIO(file)
            elif isinstance(file, str | Path):
                opened = stack.enter_context(open_regular(file))
                size = os.fstat(opened.fileno()).st_size
            else:
                size, opened = 0, file
            if size > most_bytes:
                raise ValueError(f"{size:,} bytes, more than {most_bytes:,} ({PREFIX}MAX_BYTES)")
            image = stack.enter_context(Image.open(opened, formats=_FORMATS))
            if image.width * image.height > most_pixels:
                raise ValueError(
                    f"{image.width} x {image.height} pixels, more than {most_pixels:,} ({PREFIX}MAX_PIXELS)"
                )
            if draft is not None:
                image.draft(None, (draft, draft))
            image.load()
            return upright_rgb(image)
    except Image.UnidentifiedImageError:
        raise UnreadableImage(f"{name}: not an image of a known type ({', '.join(IMAGE_TYPES)})") from None
    except Exception as error:  # PIL's plugins let out nearly any exception on a damaged file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadableImage(f"{name}: {str(reason) or type(error).__name__}") from error


def limit(name: str, default: int) -> int:
    """The limit that the environment variable MECOQ_FAISS_`name` sets, or the default; ValueError for no number."""
    value = os.environ.get(PREFIX + name) or str(default)
    if not value.isascii() or not value.isdecimal() or len(value) > 18:
        raise ValueError(f"{PREFIX}{name}={value[:40]!r} is not a whole number below 10^18")
    return int(value)


def upright_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode -> RGB, turned as its EXIF says; ValueError for float pixels."""
    tag = ExifTags.Base.Orientation
    orientation = image.getexif().get(tag)  # after loading: PIL's TIFF reader turns and drops the tag
    rgb = _to_rgb(image)
    rgb.info = {}  # exif_transpose would write all metadata anew, which fails where another tag is damaged
    rgb.getexif()[tag] = orientation
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("float pixels have no fixed range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):  # 0..65535, which PIL's own convert() clips at 255
        gray = (np.asarray(image).astype(np.int64) + 128) // 257
        image = Image.fromarray(gray.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")
