"""Texts that name an image: programs made for texts pass on nothing else."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path

STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")  # of JPEG, PNG, GIF and WebP in base64
LONGEST_PATH = 4096


def images_of(texts: Sequence[str]) -> list[str | bytes]:
    """What `Encoder.encode` takes of texts: a data URI's or base64's bytes, of anything else the path that it is.

    Raises ValueError for a data URI that is not in base64.
    """
    return [_image_of(text) for text in texts]


def _image_of(text: str) -> str | bytes:
    head, comma, data = text.partition(",") if text.startswith("data:") else ("", "", text)
    if not comma and (not text.startswith(STARTS) or _is_file(text)):
        return text
    try:
        if comma and not head.endswith(";base64"):
            raise ValueError("not in base64")
        return b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"{text[:32]!r}... is no image ({error}): write data:image/jpeg;base64,...") from error


def _is_file(text: str) -> bool:
    return len(text) <= LONGEST_PATH and Path(text).is_file()
