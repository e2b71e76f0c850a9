"""WorkFolder: unfinished work beside its target, in a folder marked as ours that one process at a time works in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mecoq_faiss.storage.files import locked, read_small, write_text

MARKER = "key.json"
LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # what `storage.files.replacing` leaves behind when it is killed


class WorkFolder:
    """A folder that a killed run leaves and the next one continues.

    Args:
        path: the folder, such as `OUT.parts`.
        key: JSON; what the content depends on. It is written into the folder, marks it as ours, and content of another
            key is not continued.
        names: regular expression of the names that the work makes; nothing else is ever removed.
    """

    def __init__(self, path: Path, key: dict[str, Any], names: str) -> None:
        self.path, self.key = path, json.loads(json.dumps(key))
        self._names = re.compile(rf"{names}|{re.escape(MARKER)}|{re.escape(LOCK)}|{TEMPORARY.pattern}")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within, the folder is there, marked, and this process's; what an earlier run made under the key is kept.

        Raises:
            FileExistsError: something of that name is there which is not ours.
            files.InUseError: another process works there.
        """
        self._check_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / LOCK, wait=False):
            if not self.is_there():
                self._check_ours()
                self._remove_content(keep=(MARKER, LOCK))
                write_text(self.path / MARKER, json.dumps({"mecoq-faiss": self.key}, sort_keys=True))
            for entry in self.path.iterdir():
                if TEMPORARY.fullmatch(entry.name):
                    entry.unlink()
            yield

    def is_there(self) -> bool:
        """Whether the folder is there under the key, whoever works in it."""
        return self._read_marker() == self.key

    def remove(self) -> None:
        """Remove what the work made, and the folder if nothing else is in it. Only within `opened`."""
        for keep in ((MARKER, LOCK), (LOCK,), ()):  # the mark goes after what it marks: a kill leaves what is ours
            self._remove_content(keep)
        with suppress(OSError):
            self.path.rmdir()

    def discard(self) -> None:
        """Remove the folder, if it is there under the key and nobody works in it."""
        if self.is_there() or (self.path.is_dir() and set(os.listdir(self.path)) <= {LOCK}):
            with suppress(OSError), self.opened():
                self.remove()

    def clear(self, keep: tuple[str, ...]) -> None:
        """Remove what the work made but for the names in `keep`. Only within `opened`."""
        self._remove_content((MARKER, LOCK, *keep))

    def become(self, target: Path, without: tuple[str, ...] = ()) -> None:
        """Rename the finished folder to its target. Only within `opened`.

        Lock, the names `without` and at last the marker are dropped after it, so that a kill loses nothing; `finish`
        drops what a kill has left.

        Raises FileExistsError, and removes the work, where another has made the target meanwhile.
        """
        if os.path.lexists(target):
            self.remove()
            raise FileExistsError(f"{target} exists, made by another meanwhile: choose another name for the output")
        os.replace(self.path, target)
        self._drop(target, without)

    def finish(self, target: Path, without: tuple[str, ...] = ()) -> bool:
        """Whether `target` is what this work has become, and a kill has left its marker there; now it is gone."""
        if not WorkFolder(target, self.key, "").is_there():
            return False
        self._drop(target, without)
        return True

    def _drop(self, target: Path, without: tuple[str, ...]) -> None:
        for name in (LOCK, *without, MARKER):
            if os.path.lexists(target / name):
                _remove(target / name)

    def _check_ours(self) -> None:
        """FileExistsError unless the folder is missing, fresh or marked.

        A damaged marker will do where everything else has a name of ours.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return
        entries = [] if self.path.is_symlink() or not self.path.is_dir() else list(self.path.iterdir())
        foreign = next((entry.name for entry in entries if not self._names.fullmatch(entry.name)), None)
        fresh = {entry.name for entry in entries if not TEMPORARY.fullmatch(entry.name)} <= {LOCK}
        real = self.path.is_dir() and not self.path.is_symlink()
        marker = self.path / MARKER
        marked = self._read_marker() is not None or (marker.is_file() and not _is_json(marker))
        if not real or foreign or not (fresh or marked):
            why = f"holds {foreign}" if foreign else "was not made by this program"
            raise FileExistsError(
                f"{self.path} is in the way and {why}: move it, or choose another name for the output"
            )

    def _read_marker(self) -> dict[str, Any] | None:
        """The key in the folder, or None without one."""
        try:
            found = json.loads(read_small(self.path / MARKER))
        except (OSError, ValueError, RecursionError):
            return None
        if isinstance(found, dict) and {"format", "data"} <= found.keys():  # as version 0.1 wrote it
            return found
        return found.get("mecoq-faiss") if isinstance(found, dict) else None

    def _remove_content(self, keep: Container[str] = ()) -> None:
        for entry in self.path.iterdir():
            if entry.name not in keep and self._names.fullmatch(entry.name):
                _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        for inner in entry.iterdir():
            _remove(inner)
        entry.rmdir()
    else:
        entry.unlink()


def _is_json(path: Path) -> bool:
    try:
        json.loads(read_small(path))
    except (ValueError, RecursionError):
        return False
    return True
