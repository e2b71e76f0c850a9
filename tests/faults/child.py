"""Commands in forked children, each of which can be broken at the N-th thing it does to a file."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

LIMIT = 20.0  # seconds of a command; longer is a hang
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code, the negative number of the signal that ended it, or None where it hung.
        out: its standard output.
        err: its standard error.
        events: how many file events there were; 0 where it was killed.
        left: whether a process of its group lived on.
    """

    code: int | None
    out: str
    err: str
    events: int
    left: bool


class Break(NamedTuple):
    """What happens at which file event, numbered from 1.

    Attributes:
        at: the event's number; 0 for none.
        by: a signal, or None for EIO.
        size: RLIMIT_FSIZE in bytes, or None.
    """

    at: int = 0
    by: signal.Signals | None = None
    size: int | None = None


class _Hook:
    """Counts file events under a folder, and breaks one."""

    def __init__(self, folder: Path, what: Break) -> None:
        self.folder, self.what, self.count = str(folder), what, 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & WRITING:
                self.happens(path, failing=True)
        elif event in CHANGES:
            self.happens(arguments[0], failing=False)
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
            self.happens(self.folder, failing=False)

    def happens(self, path: Any, *, failing: bool) -> None:
        """Take note of an event; `failing` ones are counted alone where they are to fail."""
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        if self.what.at and self.what.by is None and not failing:
            return
        self.count += 1
        if self.count == self.what.at:
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
                self.happens(name, failing=True)
            return function(handle, *rest)

        return call


def start(folder: Path, work: Callable[[], None], what: Break = Break()) -> tuple[int, int, int, int]:  # noqa: B008
    """Fork a child that does `work` with `folder` as its working folder: its pid and the ends of three pipes."""
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        _be_child(folder, work, what, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    return (pid, *(read for read, _ in pipes))  # type: ignore[return-value]


def _be_child(folder: Path, work: Callable[[], None], what: Break, pipes: list[int]) -> None:
    code = 99
    hook = _Hook(folder, what)
    try:
        os.setsid()
        os.chdir(folder)
        for number in (signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, handle in enumerate((null, pipes[0], pipes[1])):
            os.dup2(handle, target)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        logging.getLogger("mecoq_faiss").handlers.clear()
        os.environ["MECOQ_FAISS_CACHE"] = str(folder / "cache")
        torch.set_num_threads(1)
        if what.size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (what.size, what.size))
        hook.install()
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        count = hook.count
        hook.what = Break()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(pipes[2], str(count).encode())
        os._exit(code)


def wait(child: tuple[int, int, int, int], limit: float = LIMIT) -> Ended:
    """Wait for a child; one that hangs is killed with all of its group."""
    pid, *pipes = child
    for pipe in pipes:
        os.set_blocking(pipe, False)
    texts = [b""] * 3
    until, code = time.monotonic() + limit, None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        texts = [text + _read(pipe) for text, pipe in zip(texts, pipes, strict=True)]
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    left = _lives_on(pid)
    for pipe in pipes:
        os.close(pipe)
    out, err, count = (text.decode(errors="replace") for text in texts)
    return Ended(code, out, err, int(count or 0), left)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 20)
    except BlockingIOError:
        return b""


def _lives_on(group: int) -> bool:
    """Whether a process of a group is there after some seconds; it is ended."""
    for _ in range(60):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


def command(arguments: list[str]) -> Callable[[], None]:
    """The work of a command, as the console script does it."""
    from mecoq_faiss_cli.main import main

    return lambda: main(arguments, standalone_mode=True)


def run(folder: Path, arguments: list[str], what: Break = Break()) -> Ended:  # noqa: B008
    """Run a command of the package to its end in a child."""
    return wait(start(folder, command(arguments), what))
