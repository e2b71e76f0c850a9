"""Harness: the undisturbed runs of the commands, and what must hold after one was disturbed."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from tests.faults.breaking import Break
from tests.faults.child import Ended, run
from tests.faults.world import COMMANDS, WORKERS, copy, digest, listing, make_world, untouched

ALL = COMMANDS | WORKERS
State = dict[str, tuple[str, int]]  # of the user's files, see `untouched`


class Case(NamedTuple):
    """One thing to try: `check` gives what is wrong, or None.

    It is `timed` where the machine's load, or its libraries' need of memory, decides what happens.
    """

    command: str
    fault: str
    name: str
    check: Callable[[Path], str | None]
    timed: bool = False


class Truth(NamedTuple):
    """An undisturbed run of a command.

    Attributes:
        events, failing, opening: how many things of a file it does, how many can fail, and with files opened to read.
        result, before: the digests of what it makes or changes, and of what was there before.
        names: what there is afterwards.
        seconds: how long it took.
    """

    events: int
    failing: int
    opening: int
    result: dict[str, str]
    before: dict[str, str]
    names: list[str]
    seconds: float


class Harness:
    """Makes the world and the undisturbed runs once, in `folder`."""

    def __init__(self, folder: Path) -> None:
        _warm()
        self.folder, self.world = folder, folder / "world"
        make_world(self.world)
        self.passwd = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
        self.truths = {name: self._truth(name) for name in ALL}

    def _truth(self, name: str) -> Truth:
        this = ALL[name]
        place = copy(self.world, self.folder / f"truth-{name.replace(' ', '-')}", this.needs)
        before, started = digest(place / this.result), time.monotonic()
        ended = run(place, this.arguments)
        assert ended.code == 0, ended.err
        seconds = time.monotonic() - started
        events, failing, opening = ended.events
        return Truth(events, failing, opening, digest(place / this.result), before, listing(place), seconds)

    def begin(self, name: str, place: Path) -> State:
        """A folder for a command to work in, and the state of the user's files in it."""
        copy(self.world, place, ALL[name].needs)
        return self.state(name, place)

    def state(self, name: str, place: Path) -> State:
        """The state of the files that a command was given and is not to change."""
        return untouched(place, self._users(name))

    def broken(self, name: str, what: Break, place: Path) -> str | None:
        """Break a command, look at what it left, then repeat it."""
        before = self.begin(name, place)
        ended = run(place, ALL[name].arguments, what)
        if wrong := badly_ended(ended, what):
            return f"broken: {wrong}"
        if what.reading and ("skipped: " in ended.err or "taken as new" in ended.err):  # an image, which is named
            return self.users_files(name, place, before)
        return self.between(name, place) or self.repeat(name, place, before)

    def between(self, name: str, place: Path) -> str | None:
        """What a command left when it ended early: the old, or the new, and nothing between."""
        truth, found = self.truths[name], digest(place / ALL[name].result)
        whole = truth.result.items() <= found.items() if not truth.before else found == truth.result
        if ALL[name].at_once and found != truth.before and not whole:
            return "left neither the old nor the new"
        return None

    def repeat(self, name: str, place: Path, before: State) -> str | None:
        """Run a command that was disturbed once more: all must be as if nothing had been."""
        this, truth = ALL[name], self.truths[name]
        ended = run(place, this.arguments)
        done = this.done is not None and ended.code == 1 and this.done in ended.err
        if (ended.code != 0 and not done) or ended.left:
            return f"repeated: {said(ended)}"
        if digest(place / this.result) != truth.result:
            return "repeated: another result"
        extra = sorted(set(listing(place)) ^ set(truth.names))
        return f"left or missing: {', '.join(extra)}" if extra else self.users_files(name, place, before)

    def _users(self, name: str) -> tuple[str, ...]:
        return tuple(need for need in ALL[name].needs if need != ALL[name].result)

    def users_files(self, name: str, place: Path, before: State) -> str | None:
        """What is wrong with the user's files after a command."""
        return self.same(place, self._users(name), before)

    def same(self, place: Path, names: tuple[str, ...], before: State) -> str | None:
        """What is wrong unless these files, and the system's, are as they were."""
        if untouched(place, names) != before:
            return "a file of the user's was touched"
        same = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest() == self.passwd
        return None if same else "/etc/passwd was touched"


def _warm() -> None:
    """What every command would import anew: done once, before children are made."""
    from mecoq_faiss_cli.main import COMMANDS as NAMES

    for name in NAMES:
        for package in ("mecoq_faiss_cli", *(["mecoq_faiss.jobs"] if name != "serve" else [])):
            import_module(f"{package}.{name.replace('-', '_')}")
    for name in ("faiss", "numpy.ctypeslib", "numpy.ma", "torch.utils.serialization"):
        import_module(name)
    Image.preinit()
    torch.set_num_threads(1)
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight]).step()
    torch.optim.Adam([weight]).step()
    gc.freeze()  # or a collection in a child would copy all pages


def said(ended: Ended) -> str:
    """How a command ended, in words."""
    how = "hangs" if ended.code is None else f"exit {ended.code}"
    last = [line for line in ended.err.splitlines() if line.strip()][-2:]
    return f"{how}{', a process lives on' if ended.left else ''}: {' / '.join(last)[-300:]}"


def badly_ended(ended: Ended, what: Break) -> str | None:
    """What is wrong with the end of a command that was broken: it worked, said why not in one line, or was killed."""
    signalled = what.by is not None and what.worker is None and what.group != "children"
    allowed = {0, 1, 130, -int(what.by or 0)} if signalled else {0, 1}
    bad = ended.code not in allowed or ended.left or "Traceback" in ended.err or "--debug shows" in ended.err
    if ended.code == 1 and not signalled and len(errors(ended)) != 1:
        bad = True
    return said(ended) if bad else None


def errors(ended: Ended) -> list[str]:
    """The lines of its standard error that are errors."""
    return [line for line in ended.err.splitlines() if line.startswith("Error: ")]


def refused_badly(ended: Ended, names: set[str]) -> str | None:
    """What is wrong unless a command worked, or said in one line, its last, which of the names is wrong."""
    if ended.code == 0 and not ended.left and "Traceback" not in ended.err:
        return None
    found = errors(ended)
    one = len(found) == 1 and ended.err.rstrip("\n").splitlines()[-1:] == found
    if ended.code == 1 and one and not ended.left and "--debug shows" not in ended.err and "Traceback" not in ended.err:
        return None if any(name in found[0] for name in names) else f"names no file: {said(ended)}"
    return said(ended)
