"""Files written whole or not at all (to a temporary name beside the target, fsynced, renamed), and locks on them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("mecoq_faiss")
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers
SMALL_BYTES = 1 << 24  # more than any file of settings, of a fingerprint or of a key takes


class InUseError(OSError):
    """Another process is at work on the same files.

    Example:
        >>> from mecoq_faiss import InUseError, export_index
        >>> try:
        ...     manifest = export_index("run", "photos", "bundle-alone")
        ... except InUseError as error:  # another process makes the same bundle
        ...     print(error)
    """


def check_regular(path: str | Path) -> None:
    """OSError unless `path` is a regular file, or a link to one: a FIFO would wait, a device may have no end."""
    check_mode(path, os.stat(path).st_mode)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; anything else is an OSError at once, without waiting."""
    check_regular(path)  # before it is opened: opening alone moves some devices
    without_waiting = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting))  # noqa: SIM115
    try:
        check_mode(path, os.fstat(file.fileno()).st_mode)  # it may have been exchanged since
    except OSError:
        file.close()
        raise
    return file


def read_small(path: str | Path, most: int = SMALL_BYTES) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises:
        OSError: missing, or no regular file.
        ValueError: larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else b""
        if len(content) > most or os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"{os.fspath(path)!r} is larger than {most:,} bytes")
    return content


def check_mode(path: str | Path, mode: int) -> None:
    """OSError unless the mode, of stat, is that of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


@contextmanager
def replacing(path: str | Path, named: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the target's place, on an error it is removed.

    Where the target's name depends on what is written, `named` gives its path from the finished temporary one.
    """
    path = Path(path)
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}{secrets.randbelow(10**9):09}.tmp"
    )  # pids are of one machine
    temporary.touch()
    mode = temporary.stat().st_mode  # as the umask wants it; some writers make files of mode 600
    try:
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, named(temporary) if named else path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """One process at a time is inside; a process that dies lets go, whatever of its children lives on.

    Args:
        path: the lock's file, which stays; it holds the pid of the one inside.
        wait: wait for one's turn, and say for whom; else the second is refused.

    Raises:
        InUseError: another process is inside, and `wait` is False.
        OSError: something else than a lock's file has its name.
    """
    with suppress(FileNotFoundError):
        check_mode(path, os.lstat(path).st_mode)  # not even a link: the pid would be written over what it means
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise InUseError(
                f"{Path(path).parent} is in use by process {_holder(path)}: wait for it or stop it"
            ) from None
        logger.info("waiting for process %s, which is making %s", _holder(path), path)
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: no locks on this file system: run one command at a time", path)
    try:
        with suppress(OSError):  # Windows lets nobody write into a locked file
            Path(path).write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: str | Path) -> str:
    """The pid in a lock's file, or what to say without one."""
    with suppress(OSError, ValueError):
        return str(int(read_small(path, 32)))
    return "(unknown)"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def exchange_folders(new: Path, target: Path, aside: Path) -> None:
    """Put the folder `new` in the place of `target` in one step, so that there is always one of the two.

    The old one is then `new`. Where the system cannot exchange two names, the old one is renamed to `aside` first, and
    `target` is missing for a moment; `restore_folder` mends what a kill in that moment leaves.
    """
    for folder in (new, target.parent):
        sync_folder(folder)
    if not _renamed_both(new, target):
        os.rename(target, aside)
        os.rename(new, target)
        os.rename(aside, new)
    sync_folder(target.parent)


def restore_folder(target: Path, aside: Path) -> None:
    """Undo an `exchange_folders` that was stopped while `target` was missing."""
    if not target.exists() and aside.exists():
        os.rename(aside, target)


def sync_folder(folder: Path) -> None:
    """Names of a folder onto the disk, where the system does such a thing."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _renamed_both(one: Path, other: Path) -> bool:
    """Whether Linux has exchanged two names (renameat2, which Python's os lacks)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable_parent(path: Path) -> None:
    """OSError in one line where nothing can be created beside `path`."""
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {parent}: choose another place for {path.name}")
