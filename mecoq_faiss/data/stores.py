"""Where images lie: in a folder, a tar or memory."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from mecoq_faiss.data.images import IMAGE_TYPES, MAX_BYTES, PREFIX, UnreadableImage, decode_image, limit
from mecoq_faiss.data.parquet_images import PARQUET, write_tar
from mecoq_faiss.storage.files import open_regular, sha256

_MOST_HEADER = 1 << 20  # bytes, of a tar's long names and pax headers
_TAR_ERRORS = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError),
    *(ValueError, LookupError, TypeError, ArithmeticError, RecursionError),  # tarfile's own, of a damaged header
)
MOST_RATIO, UNPACKED = 100, 1 << 30  # a packed tar may become so many times as large, and so many bytes in any case
TAR_TYPES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")


class ImageStore(Protocol):
    """Images by number. Stores are picklable and safe to use after a fork."""

    names: tuple[str, ...]

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image ``i`` in RGB; raises UnreadableImage."""

    def stamp(self, i: int) -> bytes:
        """What changes when image ``i`` does: sizes, times, offsets or pixels."""

    def digest(self, i: int) -> bytes:
        """SHA-256 (32 bytes) of image ``i`` as it is stored; raises OSError."""

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of image ``i`` and when it was written (ns), 0 where that is not known; raises OSError."""


class FolderStore:
    """Image files under ``root``; ``names`` are relative to it, with forward slashes."""

    def __init__(self, root: str | Path, names: tuple[str, ...]) -> None:
        self.root = os.path.abspath(root)
        self.names = names

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image i as RGB; a JPEG's shorter side may come reduced to no less than `draft` pixels."""
        return decode_image(os.path.join(self.root, self.names[i]), draft=draft)

    def stamp(self, i: int) -> bytes:
        """What changes when file i does: its size and time."""
        return "{} {}".format(*self.size_and_time(i)).encode()

    def digest(self, i: int) -> bytes:
        """SHA-256 of file i."""
        return bytes.fromhex(sha256(os.path.join(self.root, self.names[i])))

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of file i, and when it was written (ns); -1 and 0 of one that is gone, or a link to nowhere."""
        try:
            stat = os.stat(os.path.join(self.root, self.names[i]))
        except FileNotFoundError:
            return -1, 0
        return stat.st_size, stat.st_mtime_ns


class ArrayStore:
    """Images in memory: ``pixels`` is (n, h, w) grey or (n, h, w, 3) RGB, uint8."""

    def __init__(self, names: tuple[str, ...], pixels: np.ndarray) -> None:
        self.names = names
        self.pixels = pixels

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image i as RGB."""
        return Image.fromarray(self.pixels[i]).convert("RGB")

    def stamp(self, i: int) -> bytes:
        """What changes when image i does: its pixels."""
        return self.pixels[i].tobytes()

    def digest(self, i: int) -> bytes:
        """SHA-256 of image i's pixels."""
        return hashlib.sha256(self.pixels[i].tobytes()).digest()

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of image i's pixels, and 0."""
        return self.pixels[i].nbytes, 0


# Not webdataset or ratarmount: views need any image at any time, from forked workers, and `tarfile` has the offsets.
class TarStore:
    """Images in a tar, read in place with ``os.pread``.

    A compressed tar, or a Parquet file, is unpacked once into a temporary plain tar, removed when the store that made
    it goes.
    """

    def __init__(self, path: str | Path) -> None:
        """Index the tar's images; raises ValueError if it is not a tar, is damaged or has no image."""
        self.path = os.path.abspath(path)
        stat = os.stat(self.path)
        self._archive_stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        parquet = self.path.lower().endswith(PARQUET)
        try:
            self._plain = self._plain_copy(partial(write_tar, self.path)) if parquet else self._unpack()
            members = _tar_images(self._plain)
        except _TAR_ERRORS as error:
            if parquet:
                raise
            reason = " ".join(str(error).split())[:150]
            raise ValueError(f"{path}: not a readable tar ({reason}); write it again with `tar cf`") from None
        if not members:
            raise ValueError(f"{path}: no images in this tar; accepted types: {', '.join(IMAGE_TYPES)}")
        self.names = tuple(sorted(members))
        self._spans = np.array([members[name] for name in self.names], dtype=np.int64)  # offset, size, mtime
        self._file: BinaryIO | None = None

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image i as RGB; a JPEG's shorter side may come reduced to no less than `draft` pixels."""
        name = f"{self.path}:{self.names[i]}"
        name = name if name.isprintable() else repr(name)[1:-1]
        size = int(self._spans[i, 1])
        if size < 0:
            raise UnreadableImage(f"{name}: stored as a sparse file; write the tar without --sparse")
        if size > limit("MAX_BYTES", MAX_BYTES):
            raise UnreadableImage(f"{name}: {size:,} bytes, more than {limit('MAX_BYTES', MAX_BYTES):,}")
        try:
            data = self._read(i)
        except OSError as error:
            raise UnreadableImage(f"{name}: {error.strerror}") from error
        return decode_image(data, draft=draft, name=name)

    def _read(self, i: int) -> bytes:
        offset, size, _ = self._spans[i].tolist()
        # Kept open: pread moves no file position, so forked workers may share it.
        if self._file is None:
            self._file = open_regular(self._plain)
        return os.pread(self._file.fileno(), size, offset)

    def digest(self, i: int) -> bytes:
        """SHA-256 of member i; of one too large to be read, of nothing."""
        if not 0 <= int(self._spans[i, 1]) <= limit("MAX_BYTES", MAX_BYTES):
            return hashlib.sha256().digest()
        return hashlib.sha256(self._read(i)).digest()

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of member i, and when it was written (ns)."""
        _, size, seconds = self._spans[i].tolist()
        return size, 10**9 * seconds

    def stamp(self, i: int) -> bytes:
        """What changes when member i does: the archive's size and time, and the member's place."""
        return f"{self._archive_stamp} {self._spans[i].tolist()}".encode()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def _unpack(self) -> str:
        with open_regular(self.path) as file:
            magic = file.read(6)
        unpacker = lzma.open if magic == b"\xfd7zXZ\0" else gzip.open if magic[:2] == b"\x1f\x8b" else None
        if unpacker is None:
            return self.path

        def unpack(target: BinaryIO) -> None:
            with unpacker(self.path, "rb") as source:
                self._copy(source, target)

        return self._plain_copy(unpack)

    def _plain_copy(self, write: Callable[[BinaryIO], None]) -> str:
        """A temporary plain tar that `write` fills."""
        handle, plain = tempfile.mkstemp(prefix="mecoq-faiss-", suffix=".tar")
        weakref.finalize(self, _remove, plain, os.getpid())
        with open(handle, "wb") as target:
            try:
                write(target)
            except BaseException as error:
                _remove(plain, os.getpid())  # at once: the error may be kept
                if not isinstance(error, OSError) or isinstance(error, gzip.BadGzipFile):
                    raise
                folder = os.path.dirname(plain)
                raise OSError(f"cannot unpack {self.path} into {folder} ({error}); set TMPDIR") from error
        return plain

    def _copy(self, source: lzma.LZMAFile | gzip.GzipFile, target: BinaryIO) -> None:
        """Unpack; ValueError where it becomes larger than any collection of images would."""
        most = limit("MAX_UNPACKED", max(UNPACKED, MOST_RATIO * os.path.getsize(self.path)))
        while block := source.read(1 << 20):
            if target.tell() + len(block) > most:
                raise ValueError(f"more than {most:,} bytes when unpacked ({PREFIX}MAX_UNPACKED)")
            target.write(block)


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked worker
        Path(path).unlink(missing_ok=True)


def _tar_images(path: str) -> dict[str, tuple[int, int, int]]:
    """(offset, size, mtime) of each image in a plain tar; of equal names the last counts, as in tar itself."""
    found = {}
    end = 0
    with open_regular(path) as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
        size = os.fstat(file.fileno()).st_size
        while (member := tar.next()) is not None:
            if tar.offset <= end or member.size < 0:  # tarfile would go in circles
                raise tarfile.ReadError(f"damaged at byte {end}")
            end = tar.offset
            if end > size:
                raise tarfile.ReadError(f"damaged or cut off at byte {member.offset}: a member beyond the end")
            name = os.path.normpath(member.name.lstrip("/"))
            if member.isreg() and _is_image(name):
                mtime = int(member.mtime) if abs(member.mtime) < 2**62 else 0  # pax has infinity and NaN as well
                found[name] = (member.offset_data, -1 if member.issparse() else member.size, mtime)
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops here without a word
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")
    return found


class _Headers:
    """The file under a tar, for `tarfile`, which takes the sizes of what it reads from the file itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def scan_folder(root: str | Path) -> FolderStore:
    """Find the images under ``root``, sorted by name, hidden files and folders left out.

    Raises:
        ValueError: no file of a type in ``IMAGE_TYPES``.
    """
    names: list[str] = []
    others = 0
    seen: set[tuple[int, int]] = set()  # linked folders are followed, each once
    waiting = [""]  # relative to the root; not os.walk, which goes down by recursion
    while waiting:
        folder = waiting.pop()
        place = os.path.join(root, folder)
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders = []
        with os.scandir(place) as entries:
            for entry in entries:
                name = os.path.join(folder, entry.name)
                if _is_folder(entry):
                    if not entry.name.startswith("."):
                        folders.append(name)
                elif _is_image(name := name.replace(os.sep, "/")):
                    names.append(name)
                else:
                    others += 1
        waiting.extend(reversed(folders))
    if not names:
        found = f"none of its {others} files is an image" if others else "the folder is empty"
        raise ValueError(f"{root}: {found}; accepted types: {', '.join(IMAGE_TYPES)}")
    return FolderStore(root, tuple(sorted(names)))


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGE_TYPES)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
