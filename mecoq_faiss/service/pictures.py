"""Pictures of a bundle's items, made small; only files under one folder are ever opened."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

from mecoq_faiss.data.images import IMAGE_TYPES
from mecoq_faiss.service.decoding import Decoder

KEPT = 512  # thumbnails, of about 20 KB


class Pictures:
    """The pictures under a folder.

    Args:
        root: the folder to which the bundle's paths are relative.
        decoder: makes them small.
    """

    def __init__(self, root: str | Path, decoder: Decoder) -> None:
        self.root, self._decoder = Path(root).resolve(), decoder
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"--images {root} is no folder: give the one that the bundle's paths are relative to"
            )
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def file(self, path: str) -> Path:
        """Where an item's picture lies; FileNotFoundError where it is not under the folder, or is no image's file."""
        try:
            file = (self.root / path).resolve()  # links are followed first
            inside = file.is_relative_to(self.root) and file.suffix.lower() in IMAGE_TYPES and file.is_file()
        except (OSError, ValueError):  # a zero character, a loop of links, a name too long
            inside = False
        if not inside:
            raise FileNotFoundError("no picture of this item is there")
        return file

    def place(self, path: str) -> Path:
        """Where a new picture goes; ValueError where links lead out of the folder."""
        file = self.root / path
        if not file.resolve().is_relative_to(self.root):
            raise ValueError(f"{path} leads out of the folder of pictures: choose another name")
        return file

    def etag(self, path: str, pixels: int) -> str:
        """By which a browser asks whether the picture of an item has changed; FileNotFoundError."""
        stat = self.file(path).stat()
        return f'"{hashlib.sha256(f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{pixels}".encode()).hexdigest()[:32]}"'

    async def picture(self, path: str, pixels: int, etag: str) -> bytes:
        """The picture of an item, of this `etag`, as a JPEG with no side above `pixels`; UnreadableImage."""
        content = self._kept.get(etag)
        if content is None:
            content = self._kept[etag] = await self._decoder.thumbnail(str(self.file(path)), pixels)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(etag)
        return content
