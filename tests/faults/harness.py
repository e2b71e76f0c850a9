"""Every fault on every command: what is broken, what must hold afterwards, and the table of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from tests.faults.child import Break, Ended, command, run, start, wait
from tests.faults.world import BUNDLE, COMMANDS, DAMAGE, RUN, copy, digest, listing, make_world, untouched

SIZES = (64, 512, 2048, 4096, 8192, 16384, 32768)  # of RLIMIT_FSIZE, in bytes
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
UPDATES = 20
READERS: dict[str, list[list[str]]] = {  # by what is damaged
    RUN: [
        ["info", RUN],
        ["encode", RUN, "--data", "f.h5", "--out", "out.h5"],
        ["export-index", RUN, "--data", "f.h5", "--out", "out"],
        ["train", "--data", "f.h5", "--out", RUN, "--resume", "--backbone", "features"],
    ],
    "codes.h5": [["info", "codes.h5"], ["export-index", RUN, "--codes", "codes.h5", "--out", "out"]],
    "updated": [
        ["info", "updated"],
        ["verify", "updated"],
        ["search", "updated", "q.npy"],
        ["update", "updated", "--data", "f.h5"],
        ["remove", "updated", "item-5"],
        ["encode", "updated", "--data", "f.h5", "--out", "out.h5"],
        ["export-index", "updated", "--codes", "updated", "--out", "out"],
    ],
}  # fmt: skip
GIVEN = {RUN: ("f.h5",), "codes.h5": (RUN,), "updated": ("f.h5", "q.npy")}


class Case(NamedTuple):
    """One thing to try: `check` gives what is wrong, or None."""

    command: str
    fault: str
    name: str
    check: Callable[[Path], str | None]


class Truth(NamedTuple):
    """An undisturbed run of a command: its events, result and names."""

    events: int
    failing: int
    result: dict[str, str]
    names: list[str]


class Harness:
    """Makes the world and the undisturbed runs once, in `folder`; then gives cases."""

    def __init__(self, folder: Path) -> None:
        _warm()
        self.folder, self.world = folder, folder / "world"
        make_world(self.world)
        self.passwd = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
        self.truths = {name: self._truth(name) for name in COMMANDS}

    def _truth(self, name: str) -> Truth:
        counts: list[int] = []
        for what in (Break(), Break(at=10**9)):  # the second counts what can fail
            place = copy(
                self.world, self.folder / f"truth-{len(counts)}-{name.replace(' ', '-')}", COMMANDS[name].needs
            )
            ended = run(place, COMMANDS[name].arguments, what)
            assert ended.code == 0, ended.err
            counts.append(ended.events)
        return Truth(counts[0], counts[1], digest(place / COMMANDS[name].result), listing(place))

    def cases(self, faults: set[str]) -> Iterator[Case]:
        """All cases of the named groups of faults: kill, disk, damage, two."""
        for name, truth in self.truths.items():
            if "kill" in faults:
                for by, at in itertools.product(SIGNALS, range(1, truth.events + 1)):
                    yield Case(name, by.name, f"event {at}", partial(self.broken, name, Break(at=at, by=by)))
            if "disk" in faults:
                for at in range(1, truth.failing + 1):
                    yield Case(name, "EIO", f"event {at}", partial(self.broken, name, Break(at=at)))
                for size in SIZES:
                    yield Case(name, "disk full", f"{size} bytes", partial(self.broken, name, Break(size=size)))
            if "damage" in faults:
                yield from self._partial_cases(name, truth)
            if "two" in faults:
                for i in range(5):
                    yield Case(name, "two at once", f"{i * 30} ms apart", partial(self.two, name, i * 0.03))
        if "damage" in faults:
            yield from self._damage_cases()
        if "two" in faults:
            yield Case("update", "a reader meanwhile", f"{UPDATES} updates", self.reader)

    def _damage_cases(self) -> Iterator[Case]:
        for target, commands in READERS.items():
            path = self.world / target
            files = [p.relative_to(self.world) for p in path.rglob("*") if p.is_file()] or [Path(target)]
            for file, damage, arguments in itertools.product(sorted(files), DAMAGE, commands):
                name = f"{' '.join(arguments)}: {file}"
                yield Case(arguments[0], damage, name, partial(self.damaged, target, file, damage, arguments))

    def _partial_cases(self, name: str, truth: Truth) -> Iterator[Case]:
        for at in range(truth.events // 5, truth.events, max(1, truth.events // 5)):
            for damage in DAMAGE:
                check = partial(self.partial_damaged, name, at, damage)
                yield Case(name, f"killed, then {damage}", f"event {at}", check)

    def broken(self, name: str, what: Break, place: Path) -> str | None:
        """Break a command, then repeat it."""
        this = COMMANDS[name]
        copy(self.world, place, this.needs)
        before = untouched(place, self._users(name))
        ended = run(place, this.arguments, what)
        if wrong := _badly_ended(ended, what):
            return f"broken: {wrong}"
        return self.repeat(name, place, before)

    def repeat(self, name: str, place: Path, before: dict[str, tuple[str, int]]) -> str | None:
        """Run a command that was disturbed once more: all must be as if nothing had been."""
        this, truth = COMMANDS[name], self.truths[name]
        ended = run(place, this.arguments)
        done = this.done is not None and ended.code == 1 and this.done in ended.err
        if (ended.code != 0 and not done) or ended.left:
            return f"repeated: {_said(ended)}"
        if digest(place / this.result) != truth.result:
            return "repeated: another result"
        return self._names(name, place) or self._users_files(name, place, before)

    def _names(self, name: str, place: Path) -> str | None:
        extra = sorted(set(listing(place)) ^ set(self.truths[name].names))
        return f"left or missing: {', '.join(extra)}" if extra else None

    def _users(self, name: str) -> tuple[str, ...]:
        return tuple(need for need in COMMANDS[name].needs if need != COMMANDS[name].result)

    def _users_files(self, name: str, place: Path, before: dict[str, tuple[str, int]]) -> str | None:
        if untouched(place, self._users(name)) != before:
            return "a file of the user's was touched"
        return self._passwd()

    def _passwd(self) -> str | None:
        same = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest() == self.passwd
        return None if same else "/etc/passwd was touched"

    def damaged(self, target: str, file: Path, damage: str, arguments: list[str], place: Path) -> str | None:
        """Damage one written file; a command that reads it works, or says in one line which file is wrong."""
        copy(self.world, place, (target, *GIVEN[target]))
        DAMAGE[damage](place / file)
        before = untouched(place, GIVEN[target])
        ended = run(place, arguments)
        if wrong := _refused_badly(ended, {file.name, target}):
            return wrong
        if untouched(place, GIVEN[target]) != before:
            return "a file of the user's was touched"
        return self._passwd()

    def partial_damaged(self, name: str, at: int, damage: str, place: Path) -> str | None:
        """Kill a command, damage each file that it left in turn, and repeat it."""
        this = COMMANDS[name]
        killed = copy(self.world, place / "killed", this.needs)
        old = set(listing(killed))
        run(killed, this.arguments, Break(at=at, by=signal.SIGKILL))
        left = [n for n in listing(killed) if n not in old and stat.S_ISREG((killed / n).lstat().st_mode)]
        for i, file in enumerate(left):
            again = place / str(i)
            shutil.copytree(killed, again)
            DAMAGE[damage](again / file)
            before = untouched(again, self._users(name))
            ended = run(again, this.arguments)
            if wrong := _refused_badly(ended, {*Path(file).parts, this.result}):
                return f"{file}: {wrong}"
            if ended.code == 0 and digest(again / this.result) != self.truths[name].result:
                return f"{file}: another result"
            if wrong := self._users_files(name, again, before):
                return f"{file}: {wrong}"
        return None

    def two(self, name: str, apart: float, place: Path) -> str | None:
        """Two of a command at once: each works or is refused, and the repeat finds all as it should be."""
        this = COMMANDS[name]
        copy(self.world, place, this.needs)
        before = untouched(place, self._users(name))
        children = []
        for delay in (0, apart):
            time.sleep(delay)
            children.append(start(place, command(this.arguments)))
        ends = [wait(child) for child in children]
        for ended in ends:
            if wrong := _refused_badly(ended, {this.result, "a/000.png"}):
                return wrong
        if all(ended.code for ended in ends):
            return f"both were refused: {_said(ends[0])} / {_said(ends[1])}"
        return self.repeat(name, place, before)

    def reader(self, place: Path) -> str | None:
        """A reader searches and reloads while updates land."""
        copy(self.world, place, ("f.h5", "g.h5", "q.npy", BUNDLE))
        child = start(place, _read_until_stopped)
        for i in range(UPDATES):
            ended = run(place, ["update", BUNDLE, "--data", ("g.h5", "f.h5")[i % 2]])
            if ended.code != 0:
                break
        (place / "stop").touch()
        read = wait(child)
        if ended.code != 0:
            return f"update: {_said(ended)}"
        return None if read.code == 0 else f"reader: {_said(read)}"


def _read_until_stopped() -> None:
    from mecoq_faiss import open_bundle

    count = 0
    with open_bundle(BUNDLE) as opened:
        while not Path("stop").exists() or count < 2:
            hits = opened.search(["q.npy"], 5)
            assert len(hits) == 2 and all(len(row) == 5 for row in hits)
            opened.reload()
            with open_bundle(BUNDLE) as fresh:
                assert len(fresh) in (60, 61)
            count += 1


def _warm() -> None:
    """What every training would import anew: done once, before children are made."""
    import faiss  # noqa: F401

    import mecoq_faiss.jobs.train
    import mecoq_faiss.jobs.update  # noqa: F401

    torch.set_num_threads(1)
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight]).step()
    torch.optim.Adam([weight]).step()


def _said(ended: Ended) -> str:
    how = "hangs" if ended.code is None else f"exit {ended.code}"
    last = [line for line in ended.err.splitlines() if line.strip()][-1:]
    return f"{how}{', a process lives on' if ended.left else ''}: {' '.join(last)[:220]}"


def _badly_ended(ended: Ended, what: Break) -> str | None:
    """What is wrong with the end of a command that was broken."""
    ok = {0, 1} if what.by is None else {0, 1, 130, -what.by}
    bad = ended.code not in ok or ended.left or "Traceback" in ended.err or "--debug shows" in ended.err
    if what.by is None and ended.code == 1 and len(_errors(ended)) != 1:
        bad = True
    return _said(ended) if bad else None


def _errors(ended: Ended) -> list[str]:
    return [line for line in ended.err.splitlines() if line.startswith("Error: ")]


def _refused_badly(ended: Ended, names: set[str]) -> str | None:
    """What is wrong unless a command worked, or said in one line which of the names is wrong."""
    if ended.code == 0 and not ended.left and "Traceback" not in ended.err:
        return None
    errors = _errors(ended)
    one = len(errors) == 1 and ended.err.rstrip("\n").splitlines()[-1:] == errors
    if ended.code == 1 and one and not ended.left and "--debug shows" not in ended.err and "Traceback" not in ended.err:
        return None if any(name in errors[0] for name in names) else f"names no file: {_said(ended)}"
    return _said(ended)


class Row(NamedTuple):
    """A line of the table; `bad` tells each case that went wrong."""

    command: str
    fault: str
    cases: int
    bad: list[str]


def try_all(harness: Harness, cases: list[Case], seconds: float, workers: int) -> list[Row]:
    """Try cases in `workers` processes until the time is over."""
    until, pids = time.monotonic() + seconds, []
    for i in range(workers):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _try_some(harness, cases[i::workers], until, harness.folder / f"tried-{i}.json", i)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    if any([os.waitpid(pid, 0)[1] for pid in pids]):
        raise RuntimeError("the harness itself failed")
    counts: Counter[tuple[str, str]] = Counter()
    bad = defaultdict(list)
    for i in range(workers):
        for name, fault, which, wrong in json.loads((harness.folder / f"tried-{i}.json").read_text()):
            counts[name, fault] += 1
            if wrong:
                bad[name, fault].append(f"{which}: {wrong}")
    return [Row(*key, counts[key], bad[key]) for key in sorted(counts)]


def _try_some(harness: Harness, cases: list[Case], until: float, out: Path, number: int) -> None:
    tried = []
    for case in cases:
        if time.monotonic() > until:
            break
        place = harness.folder / f"case-{number}"
        wrong = case.check(place)
        tried.append((case.command, case.fault, case.name, wrong and wrong.replace(str(harness.folder), "")))
        shutil.rmtree(place)
        if wrong:
            print(f"BAD {case.command}, {case.fault}, {case.name}: {wrong}", file=sys.stderr, flush=True)
    out.write_text(json.dumps(tried))


def sample(cases: list[Case], most: int | None, seed: int) -> list[Case]:
    """At most so many cases, evenly from all; in an order by the seed, so that a stop leaves an even part too."""
    if most is not None and most < len(cases):
        cases = [cases[i * len(cases) // most] for i in range(most)]
    random.Random(seed).shuffle(cases)
    return cases


def table(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = ["| command | fault | cases | survived | bad |", "|---|---|--:|--:|--:|"]
    for row in rows:
        lines.append(f"| {row.command} | {row.fault} | {row.cases} | {row.cases - len(row.bad)} | {len(row.bad)} |")
    total, bad = sum(row.cases for row in rows), sum(len(row.bad) for row in rows)
    return "\n".join([*lines, f"| all | | {total} | {total - bad} | {bad} |"]) + "\n"
