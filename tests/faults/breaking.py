"""Break: what goes wrong in a command, and when; and the hooks inside it that make it go wrong."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Break(NamedTuple):
    """What happens at which file event, numbered from 1, or at which time.

    Attributes:
        at: the event's number; 0 for none.
        by: a signal; None for EIO.
        reading: whether files that are opened for reading are events too, for EIO.
        size: RLIMIT_FSIZE in bytes.
        space: bytes of address space beyond what the process has; of a process of its own, RLIMIT_AS.
        after: seconds after which `by` is sent.
        group: where `by` is sent after a time: the process, its whole group as by Ctrl-C, or one of its children.
        worker: (number, item): the decoding process that ends by `by` at its so-manieth item.
        own: a new interpreter in place of a fork.
    """

    at: int = 0
    by: int | None = None
    reading: bool = False
    size: int | None = None
    space: int | None = None
    after: float | None = None
    group: str = "process"
    worker: tuple[int, int, int] | None = None
    own: bool = False

    @classmethod
    def parse(cls, text: str) -> Break:
        """From the JSON of its fields."""
        return cls(*json.loads(text))

    def ask(self, pid: int) -> bool:
        """Send the signal; False where it could not be sent yet."""
        assert self.by is not None
        if self.group == "children":
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not found:
                return False
            with suppress(ProcessLookupError):
                os.kill(int(found[-1]), self.by)
        elif self.group == "group":
            os.killpg(pid, self.by)
        else:
            os.kill(pid, self.by)
        return True


class Hook:
    """Counts file events under a folder, and breaks one.

    Attributes:
        counts: how many there were, of all but reading; of those that can fail; of these and files opened to be read.
    """

    def __init__(self, folder: Path, what: Break) -> None:
        self.folder, self.what, self.counts = str(folder), what, [0, 0, 0]
        self._broken = 0 if what.by is not None else 2 if what.reading else 1  # which count tells when

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python for everything that a program does."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int):
                self.happens(path, (0, 1, 2) if flags & WRITING else (2,))
        elif event in CHANGES:
            self.happens(arguments[0], (0,))
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
            self.happens(self.folder, (0,))

    def happens(self, path: Any, counted: tuple[int, ...]) -> None:
        """Take note of an event, which belongs to these counts, and break it where it is the one."""
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        for i in counted:
            self.counts[i] += 1
        if self._broken not in counted or self.counts[self._broken] != self.what.at:
            return
        if self.what.by is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(path))
        os.kill(os.getpid(), self.what.by)

    def install(self) -> None:
        """Audit, and wrap what has no audit event; for the rest of this process."""
        sys.addaudithook(self.audit)
        for name in ("fsync", "write"):
            setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: int, *rest: Any) -> Any:
            name = os.readlink(f"/proc/self/fd/{handle}")
            if name.startswith("/"):  # no pipe
                self.happens(name, (0, 1, 2))
            return function(handle, *rest)

        return call


def kill_worker(number: int, item: int, by: int) -> None:
    """From now on the decoding process of this number ends by a signal when it comes to its so-manieth item."""
    from torch.utils.data import get_worker_info

    from mecoq_faiss.data.loading import _Views

    read, done = _Views.__getitem__, []

    def counted(self: Any, which: Any) -> Any:
        done.append(which)
        info = get_worker_info()
        if info is not None and info.id == number and len(done) == item:
            os.kill(os.getpid(), by)
        return read(self, which)

    _Views.__getitem__ = counted  # type: ignore[method-assign]
