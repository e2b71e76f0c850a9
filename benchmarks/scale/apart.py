"""Work in fresh processes that begin together: each has its own threads, its own peak of memory, and its own row.

Work is a generator function. What it does before its first `yield` is preparation; then it waits for the others; its
second `yield` gives its row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import IO, Any

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
            said = stack.enter_context(tempfile.TemporaryFile("w+"))  # no pipe, which would fill
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
            )
            stack.callback(_end, process)
            processes.append((process, said))
        for process, said in processes:
            _line(process, said)
        for process, _ in processes:
            assert process.stdin
            process.stdin.write(GO)
            process.stdin.flush()
        return [json.loads(_line(process, said)) for process, said in processes]


def _line(process: subprocess.Popen[str], said: IO[str]) -> str:
    """What the process answers; Died, with the last line that it said, where it ends instead."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        said.seek(0)
        last = (said.read().strip().splitlines() or [""])[-1]
        raise Died(f"ended by signal {-code}, perhaps for want of memory" if code < 0 or not last else last)
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
