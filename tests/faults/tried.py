"""Cases tried in several processes, counted by command and fault, and the page that tells of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults import damage, interrupted, together, workers
from tests.faults.harness import Case, Harness

FAULTS: dict[str, Callable[[Harness], Iterator[Case]]] = {
    "kill": interrupted.kills,
    "disk": interrupted.disk,
    "memory": interrupted.memory,
    "own": interrupted.own,
    "after": interrupted.damaged_after,
    "damage": damage.cases,
    "places": damage.places,
    "workers": workers.cases,
    "together": together.cases,
}
PAGE = """\
# What was broken

`make faults` runs the commands on tiny data in processes of their own and breaks them. After a break the result is the
old or the new and nothing between, where it comes in one step. Then the same command is called again: it must end in
the bytes of an undisturbed run and the same names, without a file of the user's touched, a process, a lock or a
temporary file left. A command that reads a damaged file must give the result of the whole one, or say in one line which
file is wrong. Each has 20 seconds.

| fault | what is done |
|---|---|
| SIGKILL, SIGTERM, SIGINT | at every open for writing, write, fsync, rename, removal, link; at random times |
| EIO | opens, writes and fsyncs fail one by one, also opens for reading; an image is named and left out |
| file too large, disk full | files may not grow beyond a size; a file system has so many KiB left (as root) |
| no memory | the address space may grow by so much and no more |
| own process | `python -m` in a new interpreter: its end, names and bytes are those of the forked one |
| killed, then ... | killed, and each file that it left damaged, one after the other, before the repeat |
| a decoding process | one of two, which read images, ends by a signal |
| half, cut off, a bit flipped, a FIFO, ... | each file of runs, codes and bundles, for each command that reads it |
| two at once | the same command twice, or two that change or make the same; both land or one is refused |
| readers of replacements | three search and reload a bundle replaced 1,000 times: each answer is of one generation |

Written by `python -m tests.faults --page docs/project/faults.md --json tests/faults/tried.json`; the rows are in that
file too.

"""


class Row(NamedTuple):
    """A line of the table; `bad` tells each case that went wrong."""

    command: str
    fault: str
    cases: int
    bad: list[str]


def try_all(harness: Harness, cases: list[Case], seconds: float, processes: int) -> list[Row]:
    """Try cases in so many processes until the time is over."""
    until, pids = time.monotonic() + seconds, []
    for i in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                interrupted.own_mounts()
                _try_some(harness, cases[i::processes], until, harness.folder / f"tried-{i}.jsonl", i)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    if any([os.waitpid(pid, 0)[1] for pid in pids]):
        raise RuntimeError("the harness itself failed")
    lines = [line for file in harness.folder.glob("tried-*.jsonl") for line in file.read_text().splitlines()]
    return rows_of([json.loads(line) for line in lines])


def _try_some(harness: Harness, cases: list[Case], until: float, out: Path, number: int) -> None:
    for case in cases:
        if time.monotonic() > until:
            break
        place = harness.folder / f"case-{number}"
        try:
            wrong = case.check(place)
        except Exception as error:  # what is left cannot even be read
            wrong = f"{type(error).__name__}: {error}"
        with open(out, "a") as file:
            told = case.command, case.fault, case.name, wrong and wrong.replace(str(harness.folder), "")
            file.write(json.dumps(told) + "\n")
        shutil.rmtree(place, ignore_errors=True)
        if wrong:
            print(f"BAD {case.command}, {case.fault}, {case.name}: {wrong}", file=sys.stderr, flush=True)


def rows_of(tried: list[tuple[str, str, str, str | None]]) -> list[Row]:
    """Cases (command, fault, name, what was wrong) counted."""
    counts: Counter[tuple[str, str]] = Counter()
    bad = defaultdict(list)
    for command, fault, name, wrong in tried:
        counts[command, fault] += 1
        if wrong:
            bad[command, fault].append(f"{name}: {wrong}")
    return [Row(*key, counts[key], sorted(bad[key])) for key in sorted(counts)]


def joined(parts: list[list[Row]]) -> list[Row]:
    """The rows of several runs of different cases as those of one."""
    found: dict[tuple[str, str], Row] = {}
    for row in (row for rows in parts for row in rows):
        before = found.get(row[:2], Row(row.command, row.fault, 0, []))
        found[row[:2]] = Row(row.command, row.fault, before.cases + row.cases, sorted(before.bad + row.bad))
    return [found[key] for key in sorted(found)]


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


def page(rows: list[Row]) -> str:
    """The page of the documentation: what was tried, and each case that went wrong."""
    wrong = [f"- {row.command}, {row.fault}, {bad}" for row in rows for bad in row.bad]
    return PAGE + table(rows) + ("\nWhat went wrong:\n\n" + "\n".join(wrong) + "\n" if wrong else "")
