"""`python -m tests.faults`: break the commands until the time is over, and print the table."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and FAISS start: children are forked

from tests.faults.harness import Harness, Row, sample, table, try_all

FAULTS = ("kill", "disk", "damage", "two")
PAGE = """\
# What was broken

`make faults` runs the commands on tiny data in processes of their own and breaks them: signals and errors at every
event of a file, files that may not grow, damaged files, two writers at once, a reader during updates. After a break the
same command is called again. It must end in the bytes of an undisturbed run and the same names, without touching a
file of the user's and without leaving a process. A command that reads a damaged file must work, or say in one line
which file is wrong. Each has 20 seconds. "Killed, then ..." damages each file that a killed command left, one by one.

The table is written by `python -m tests.faults --page docs/project/faults.md`.

"""


def page(rows: list[Row]) -> str:
    """The page of the documentation: what was tried, and each case that went wrong."""
    wrong = [f"- {row.command}, {row.fault}, {bad}" for row in rows for bad in row.bad]
    return PAGE + table(rows) + ("\nWhat went wrong:\n\n" + "\n".join(wrong) + "\n" if wrong else "")


def main() -> int:
    """1 where a case went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="cases, evenly from all")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--page", type=Path, help="write the documentation's page")
    parser.add_argument("--json", type=Path, help="write the rows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder).resolve() / "faults")
        cases = sample(list(harness.cases(set(given.faults))), given.most, given.seed)
        print(f"{len(cases)} cases", flush=True)
        rows = try_all(harness, cases, given.seconds, given.workers)
    print(table(rows))
    if given.page:
        given.page.write_text(page(rows))
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows]))
    return int(any(row.bad for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
