"""Work in fresh processes that begin together: each has its own threads, its own peak of memory, and its own row.

Work is a generator function. What it does before its first `yield` is preparation; then it waits for the others; its
second `yield` gives its row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from benchmarks.speed.measure import Row, resident

READY, GO = "ready\n", "go\n"


class Died(RuntimeError):
    """A process ended without its row."""


def together(work: str, jobs: Sequence[Row], threads: int = 1) -> list[Row]:
    """The rows of `work(**job)`, a process for each job.

    Args:
        work: MODULE:FUNCTION of this package.
        jobs: arguments that JSON can say.
        threads: of each process.

    Returns:
        Rows, with `seconds` from the common beginning to each end, and `rss`, the most bytes that the process had
        resident at once, mapped files included.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with ExitStack() as stack:
        processes = []
        for job in jobs:
            command = [sys.executable, "-m", "benchmarks.scale.apart", work, json.dumps(job)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=environment,
            )  # fmt: skip
            stack.callback(_end, process)
            processes.append(process)
        for process in processes:
            _line(process, READY)
        for process in processes:
            assert process.stdin
            process.stdin.write(GO)
            process.stdin.flush()
        return [json.loads(_line(process)) for process in processes]


def _line(process: subprocess.Popen[str], wanted: str | None = None) -> str:
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    if not line or wanted not in (None, line):
        said = (process.communicate()[1].strip().splitlines() or [""])[-1]
        raise Died(said or f"ended by signal {-process.returncode}, perhaps for want of memory")
    return line


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever prints does not reach the parent's pipe
    work: Any = getattr(import_module(f"benchmarks.scale.{module}"), function)(**json.loads(sys.argv[2]))
    next(work)
    answers.write(READY)
    answers.flush()
    if sys.stdin.readline() != GO:
        sys.exit("the parent is gone")
    started = time.perf_counter()
    row = next(work)
    seconds = time.perf_counter() - started
    answers.write(json.dumps({**row, "seconds": seconds, "rss": resident("VmHWM")}) + "\n")
    answers.flush()
    work.close()  # its folders go


if __name__ == "__main__":
    main()
