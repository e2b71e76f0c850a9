"""Image files: where their bytes lie (a folder, a tar, memory) and how they decode to RGB."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

IMAGE_TYPES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TAR_TYPES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")

# Only these decoders see a file: others (EPS, for one) start outside programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message names the file and why."""


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
        UnreadableImage: missing, truncated, not an image, or above PIL's limit against decompression bombs.
    """
    if name is None:
        name = str(file) if isinstance(file, str | Path) else str(getattr(file, "name", "image"))
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS) as image:
            if draft is not None:
                image.draft(None, (draft, draft))
            image.load()
            # After load(): PIL's TIFF reader turns the image there and drops the tag.
            orientation = image.getexif().get(_ORIENTATION_TAG)
            rgb = _to_rgb(image)
    except Image.UnidentifiedImageError:
        raise UnreadableImage(f"{name}: not an image of a known type ({', '.join(IMAGE_TYPES)})") from None
    except Exception as error:  # PIL's plugins let out nearly any exception on a damaged file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadableImage(f"{name}: {str(reason) or type(error).__name__}") from error
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("float pixels have no fixed range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):  # 0..65535, which PIL's own convert() clips at 255
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


class ImageStore(Protocol):
    """Images by number. Stores are picklable and safe to use after a fork."""

    names: tuple[str, ...]

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image ``i`` in RGB; raises UnreadableImage."""

    def stamp(self, i: int) -> bytes:
        """What changes when image ``i`` does: sizes, times, offsets or pixels."""


class FolderStore:
    """Image files under ``root``; ``names`` are relative to it, with forward slashes."""

    def __init__(self, root: str | Path, names: tuple[str, ...]) -> None:
        self.root = os.path.abspath(root)
        self.names = names

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        return decode_image(os.path.join(self.root, self.names[i]), draft=draft)

    def stamp(self, i: int) -> bytes:
        stat = os.stat(os.path.join(self.root, self.names[i]))
        return f"{stat.st_size} {stat.st_mtime_ns}".encode()


class ArrayStore:
    """Images in memory: ``pixels`` is (n, h, w) grey or (n, h, w, 3) RGB, uint8."""

    def __init__(self, names: tuple[str, ...], pixels: np.ndarray) -> None:
        self.names = names
        self.pixels = pixels

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        return Image.fromarray(self.pixels[i]).convert("RGB")

    def stamp(self, i: int) -> bytes:
        return self.pixels[i].tobytes()


class TarStore:
    """Images in a tar, read in place with ``os.pread``. A compressed tar is unpacked once into a
    temporary plain tar, removed when the store that made it goes."""

    def __init__(self, path: str | Path) -> None:
        """Index the tar's images; raises ValueError if it is not a tar, is damaged or has no image."""
        self.path = os.path.abspath(path)
        stat = os.stat(self.path)
        self._archive_stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        try:
            self._plain = self._unpack()
            members = _tar_images(self._plain)
        except (tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise ValueError(f"{path}: not a readable tar ({error}); write it again with `tar cf`") from None
        if not members:
            raise ValueError(f"{path}: no images in this tar; accepted types: {', '.join(IMAGE_TYPES)}")
        self.names = tuple(sorted(members))
        self._spans = np.array([members[name] for name in self.names], dtype=np.int64)  # offset, size, mtime
        self._file: BinaryIO | None = None

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        name = f"{self.path}:{self.names[i]}"
        offset, size, _ = self._spans[i].tolist()
        try:
            # Kept open: pread moves no file position, so forked workers may share it.
            if self._file is None:
                self._file = open(self._plain, "rb", buffering=0)  # noqa: SIM115
            data = os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise UnreadableImage(f"{name}: {error.strerror}") from error
        return decode_image(data, draft=draft, name=name)

    def stamp(self, i: int) -> bytes:
        return f"{self._archive_stamp} {self._spans[i].tolist()}".encode()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def _unpack(self) -> str:
        with open(self.path, "rb") as file:
            magic = file.read(6)
        unpacker = lzma.open if magic == b"\xfd7zXZ\0" else gzip.open if magic[:2] == b"\x1f\x8b" else None
        if unpacker is None:
            return self.path
        handle, plain = tempfile.mkstemp(prefix="mecoq-faiss-", suffix=".tar")
        weakref.finalize(self, _remove, plain, os.getpid())
        with open(handle, "wb") as target, unpacker(self.path, "rb") as source:
            try:
                shutil.copyfileobj(source, target, 1 << 20)
            except OSError as error:
                if isinstance(error, gzip.BadGzipFile):
                    raise
                folder = os.path.dirname(plain)
                raise OSError(f"cannot unpack {self.path} into {folder} ({error}); set TMPDIR") from error
        return plain


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked worker
        Path(path).unlink(missing_ok=True)


def _tar_images(path: str) -> dict[str, tuple[int, int, int]]:
    """(offset, size, mtime) of each image in a plain tar; of equal names the last counts, as in tar itself."""
    found = {}
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            name = os.path.normpath(member.name.lstrip("/"))
            if member.isreg() and _is_image(name):
                found[name] = (member.offset_data, member.size, int(member.mtime))
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops here without a word
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")
    return found


def scan_folder(root: str | Path) -> FolderStore:
    """Find the images under ``root``, sorted by name, hidden files and folders left out.

    Raises:
        ValueError: no file of a type in ``IMAGE_TYPES``.
    """
    names: list[str] = []
    others = 0
    seen: set[str] = set()  # linked folders are followed, each once
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for file in files:
            name = os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/")
            if _is_image(name):
                names.append(name)
            else:
                others += 1
    if not names:
        found = f"none of its {others} files is an image" if others else "the folder is empty"
        raise ValueError(f"{root}: {found}; accepted types: {', '.join(IMAGE_TYPES)}")
    return FolderStore(root, tuple(sorted(names)))


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGE_TYPES)


def _raise(error: OSError) -> None:
    raise error
