"""Commands that end before their time: signals, errors of the disk, no room, no memory; and damage after that."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.breaking import Break
from tests.faults.child import run
from tests.faults.damage import DAMAGE
from tests.faults.harness import ALL, Case, Harness, badly_ended, errors, refused_badly, said
from tests.faults.world import COMMANDS, copy, digest, listing

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SIZES = (64, 512, 2048, 4096, 6000, 8192, 12000, 16384, 20000, 24000, 32768)  # of RLIMIT_FSIZE, in bytes
ROOMS = (0, 4, 8, 16, 32, 64, 128)  # KiB that a full disk has left
SPACES = tuple(n << 10 for n in (0, 256, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 256 << 10))
OWN_SPACES = tuple(n << 20 for n in (700, 1000, 1500, 2000, 3000))  # of a new interpreter
RANDOM_TIMES = 8  # of each signal
CLONE_NEWNS = 0x20000  # linux/sched.h


def kills(h: Harness) -> Iterator[Case]:
    """A signal at every event of a file, and at random times."""
    for name in COMMANDS:
        for by, at in itertools.product(SIGNALS, range(1, h.truths[name].events + 1)):
            yield Case(name, by.name, f"event {at}", partial(h.broken, name, Break(at=at, by=by)))
    for name, by, i in itertools.product(ALL, SIGNALS, range(RANDOM_TIMES)):
        share = random.Random(f"{name} {by} {i}").random()
        group = "group" if by == signal.SIGINT else "process"  # Ctrl-C reaches all
        what = Break(by=by, after=share * h.truths[name].seconds, group=group)
        yield Case(name, f"{by.name}, random times", f"{share:.3f} of it", partial(h.broken, name, what), timed=True)


def disk(h: Harness) -> Iterator[Case]:
    """EIO at every writing event, and where files are opened to be read; files that may not grow; a full disk."""
    full = _may_mount()
    for name in COMMANDS:
        truth = h.truths[name]
        for at in range(1, truth.failing + 1):
            yield Case(name, "EIO", f"event {at}", partial(h.broken, name, Break(at=at)))
        for at in range(1, truth.opening + 1):
            what = Break(at=at, reading=True)
            yield Case(name, "EIO, also of reading", f"event {at}", partial(h.broken, name, what))
        for size in SIZES:
            yield Case(name, "file too large", f"{size} bytes", partial(h.broken, name, Break(size=size)))
        for room in ROOMS if full else ():
            yield Case(name, "disk full", f"{room} KiB left", partial(_full, h, name, room))


def memory(h: Harness) -> Iterator[Case]:
    """Address space that ends: in a running process, and of a new one."""
    for name, space in itertools.product(COMMANDS, SPACES):
        what = Break(space=space)
        yield Case(name, "no memory", f"{space >> 10} KiB more", partial(h.broken, name, what), timed=True)
    for name, space in itertools.product(("train", "export-index", "update", "merge"), OWN_SPACES):
        what = Break(space=space, own=True)
        yield Case(name, "no memory, own process", f"{space >> 20} MiB", partial(h.broken, name, what), timed=True)


def own(h: Harness) -> Iterator[Case]:
    """`python -m` in a process of its own ends as the forked one does, and leaves the same names and bytes."""
    for name in COMMANDS:
        for share, by in ((0.3, signal.SIGKILL), (0.6, signal.SIGTERM), (0.8, signal.SIGKILL), (0.5, None)):
            at = 1 + int(share * (h.truths[name].events if by else h.truths[name].failing))
            fault = f"{by.name if by else 'EIO'}, own process"
            yield Case(name, fault, f"event {at}", partial(_agree, h, name, Break(at=at, by=by)), timed=True)


def damaged_after(h: Harness) -> Iterator[Case]:
    """A command killed at a fifth, two fifths, ... of its events, then what it left damaged, file by file."""
    for name in COMMANDS:
        step = max(1, h.truths[name].events // 5)
        for at, damage in itertools.product(range(step, h.truths[name].events, step), DAMAGE):
            yield Case(name, f"killed, then {damage}", f"event {at}", partial(_damaged_after, h, name, at, damage))


def _damaged_after(h: Harness, name: str, at: int, damage: str, place: Path) -> str | None:
    this = COMMANDS[name]
    killed = copy(h.world, place / "killed", this.needs)
    old = set(listing(killed))
    run(killed, this.arguments, Break(at=at, by=signal.SIGKILL))
    left = [n for n in listing(killed) if n not in old and stat.S_ISREG((killed / n).lstat().st_mode)]
    for i, file in enumerate(left):
        again = place / str(i)
        shutil.copytree(killed, again)
        DAMAGE[damage](again / file)
        before = h.state(name, again)
        ended = run(again, this.arguments)
        if wrong := refused_badly(ended, {*Path(file).parts, this.result}):
            return f"{file}: {wrong}"
        if ended.code == 0 and digest(again / this.result) != h.truths[name].result:
            return f"{file}: another result"
        if wrong := h.users_files(name, again, before):
            return f"{file}: {wrong}"
    return None


def _agree(h: Harness, name: str, what: Break, place: Path) -> str | None:
    found = []
    for kind in (what, what._replace(own=True)):
        folder = place / str(kind.own)
        before = h.begin(name, folder)
        ended = run(folder, ALL[name].arguments, kind)
        if wrong := badly_ended(ended, what):
            return f"broken: {wrong}"
        names = [re.sub(r"\.\d+\.tmp", ".tmp", name) for name in listing(folder)]
        last = [re.sub(r"\.\d+\.tmp", ".tmp", line.replace(str(folder), "")) for line in errors(ended)]
        found.append((ended.code, last, names, digest(folder / ALL[name].result)))
        if wrong := h.repeat(name, folder, before):
            return wrong
    return None if found[0] == found[1] else f"not as when forked: {found[0][:3]} / {found[1][:3]}"


def _full(h: Harness, name: str, room: int, place: Path) -> str | None:
    """A file system of its own, with so much room."""
    place.mkdir()
    _mount("mount", "-t", "tmpfs", "tmpfs", str(place))
    try:
        inner = place / "in"
        before = h.begin(name, inner)
        used = os.statvfs(place)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize >> 10
        _mount("mount", "-o", f"remount,size={taken + room}k", str(place))
        ended = run(inner, ALL[name].arguments)
        if ended.code not in (0, 1) or "Traceback" in ended.err or (ended.code == 1 and len(errors(ended)) != 1):
            return f"broken: {said(ended)}"
        if wrong := h.between(name, inner):
            return wrong
        _mount("mount", "-o", "remount,size=1g", str(place))
        return h.repeat(name, inner, before)
    finally:
        _mount("umount", str(place))


def _mount(*words: str) -> None:
    subprocess.run(words, check=True)


def own_mounts() -> None:
    """From now on what this process mounts is seen by it alone, and goes with it; only root can."""
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0:
        _mount("mount", "--make-rprivate", "/")


def _may_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
