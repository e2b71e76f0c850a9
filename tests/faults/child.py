"""Commands in forked children or processes of their own, which can be broken at the N-th thing they do to a file."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from tests.faults.breaking import Break, Hook, kill_worker

LIMIT = 20.0  # seconds of a command; longer is a hang
IMPORTS = 40.0  # more, for a process of its own
TO_BE_ASKED = (signal.SIGINT, signal.SIGTERM)
SAID = 3  # the handle that the counts of events are written to


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code, the negative number of the signal that ended it, or None where it hung.
        out: its standard output.
        err: its standard error.
        events: the counts of file events, see `Hook`; none where it was killed.
        left: whether a process of its group lived on.
    """

    code: int | None
    out: str
    err: str
    events: list[int]
    left: bool


class Child(NamedTuple):
    """A command at work: its pid, what of it is broken from outside, and the ends of three pipes."""

    pid: int
    what: Break
    pipes: tuple[int, int, int]


def start(folder: Path, work: Callable[[], None] | list[str], what: Break = Break()) -> Child:  # noqa: B008
    """Fork a child that does `work`, or a command of these arguments, with `folder` as its working folder."""
    pipes = [os.pipe() for _ in range(3)]
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_BE_ASKED)  # none is lost before the child is ready
    pid = os.fork()
    if pid == 0:
        _be_child(folder, work, what, [write for _, write in pipes])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_BE_ASKED)
    for _, write in pipes:
        os.close(write)
    return Child(pid, what, tuple(read for read, _ in pipes))  # type: ignore[arg-type]


def _be_child(folder: Path, work: Callable[[], None] | list[str], what: Break, pipes: list[int]) -> None:
    code = 99
    hook = Hook(folder, what)
    try:
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, handle in enumerate((null, *(os.dup(pipe) for pipe in pipes))):
            os.dup2(handle, target)
        os.environ.update(MECOQ_FAISS_CACHE=str(folder / "cache"), TMPDIR=str(folder / "tmp"))
        for number in (signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if what.own:
            _become_process(work, what)
        tempfile.tempdir = None
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        logging.getLogger("mecoq_faiss").handlers.clear()
        torch.set_num_threads(1)
        _limit(what)
        hook.install()
        if what.worker:
            kill_worker(*what.worker)
        do = command(work) if isinstance(work, list) else work
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_BE_ASKED)
        do()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_BE_ASKED)
        hook.what = Break()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(SAID, json.dumps(hook.counts).encode())
        os._exit(code)


def _become_process(arguments: object, what: Break) -> None:
    """`python -m`: of the command itself, or of this file where something in the process is to be broken."""
    assert isinstance(arguments, list)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    resource.setrlimit(resource.RLIMIT_AS, (what.space or -1,) * 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_BE_ASKED)
    inside = ["tests.faults.child", json.dumps(what)] if what.at or what.size else ["mecoq_faiss_cli.main"]
    os.execv(sys.executable, [sys.executable, "-m", *inside, *arguments])


def _limit(what: Break) -> None:
    if what.size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (what.size, what.size))
    if what.space is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + what.space,) * 2)


def wait(child: Child, limit: float = LIMIT) -> Ended:
    """Wait for a child; one that hangs is killed with all of its group."""
    pid, what, pipes = child
    limit += IMPORTS if what.own else 0
    for pipe in pipes:
        os.set_blocking(pipe, False)
    texts = [b""] * 3
    started, code, asked = time.monotonic(), None, what.after is None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        texts = [text + _read(pipe) for text, pipe in zip(texts, pipes, strict=True)]
        now = time.monotonic() - started
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if not asked and what.after is not None and now > what.after:
            asked = what.ask(pid)
        if now > limit:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.003)
    left = _lives_on(pid)
    for pipe in pipes:
        os.close(pipe)
    out, err, count = (text.decode(errors="replace") for text in texts)
    return Ended(code, out, err, json.loads(count or "[]"), left)


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
    from mecoq_faiss_cli.interrupts import deliver_again
    from mecoq_faiss_cli.main import main

    deliver_again()
    return lambda: main(arguments, standalone_mode=True)


def run(folder: Path, work: Callable[[], None] | list[str], what: Break = Break()) -> Ended:  # noqa: B008
    """Run a command of the package, or other work, to its end in a child."""
    return wait(start(folder, work, what))


if __name__ == "__main__":  # a process of its own, in the folder in which it is to work
    from mecoq_faiss_cli.main import run as console_script

    given = Break.parse(sys.argv.pop(1))
    _limit(given)
    Hook(Path.cwd(), given).install()
    console_script()
