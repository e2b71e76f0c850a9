"""`python -m tests.fuzz`: fuzz every reader, each in a process of its own, and print the table."""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.corpus import CORPUS, distil, seed_into
from tests.fuzz.harness import COUNTED, SECONDS, Target
from tests.fuzz.targets import TARGETS

MEMORY = Path("/dev/shm")  # where files cost no disk
MOST_STARTS = 10  # of a target's process, which a crash or a hang ends
PAGE = """\
# What was fuzzed

`make fuzz` feeds every reader of files with altered ones (atheris, which is guided by the coverage of the Python code;
what lies in HDF5, FAISS, Pillow and other C code is not instrumented). Most mutations keep the shell whole:
lengths, checksums and CRCs are made to fit, so that the change lies behind the door. A reader must return, or raise
`ValueError` or `OSError` in one line, within {seconds} seconds and without taking 512 MB. Anything else is bad: another
exception, a crash, a hang. "Returned" are inputs that were read; "refused" got their line.

The table is written by `python -m tests.fuzz --page docs/project/fuzzing.md`; the corpora in `tests/fuzz/corpus` are
read again by `make test`.

"""


def fuzz(target: Target, folder: Path, runs: int, seconds: float, seed: int) -> dict[str, Any]:
    """Run a target's process, again after each crash, until the runs or the seconds are over."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    seed_into(corpus, target)
    started, counts, ends = time.monotonic(), dict.fromkeys(COUNTED, 0), []
    for start in range(MOST_STARTS):
        left = seconds - (time.monotonic() - started)
        if counts["executed"] >= runs or left < 1:
            break
        options = [
            str(corpus), f"-runs={runs - counts['executed']}", f"-max_total_time={int(left)}", f"-seed={seed + start}",
            f"-timeout={SECONDS}", f"-max_len={target.max_bytes}", f"-artifact_prefix={folder}/", "-rss_limit_mb=4000",
            "-len_control=0", "-mutate_depth=2", "-close_fd_mask=1", "-verbosity=0",
        ]  # fmt: skip
        child = [sys.executable, "-m", "tests.fuzz.child", target.name, str(folder), "--", *options]
        done = subprocess.run(child, stderr=subprocess.PIPE, check=False)
        numbers = struct.unpack(f"<{len(COUNTED)}q", (folder / "counts").read_bytes())
        counts = dict(zip(COUNTED, numbers, strict=True))
        if done.returncode:
            ends.append(done.stderr.decode(errors="replace")[-2000:])
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("bad-*.json"))]
    return {"target": target.name, **counts, "ended": ends, "found": found, "seconds": time.monotonic() - started}


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| reader | executions | returned | refused | bad | crashes and hangs |", "|---|--:|--:|--:|--:|--:|"]
    total = {name: sum(row[name] for row in rows) for name in COUNTED}
    ended = [end for row in rows for end in row["ended"]]
    for row in [*rows, {"target": "**all**", **total, "ended": ended}]:
        numbers = [*(row[name] for name in COUNTED), len(row["ended"])]
        lines.append(f"| {row['target']} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """1 where a reader did what it must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", dest="targets", action="append", choices=TARGETS, help="all by default")
    parser.add_argument("--runs", type=int, help="executions of each; by default as its targets.py says")
    parser.add_argument("--seconds", type=float, default=3600, help="at most, of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep findings and corpora in this new folder")
    parser.add_argument("--keep", action="store_true", help=f"write a small corpus of each into {CORPUS}")
    parser.add_argument(
        "--read", type=Path, action="append", default=[], help="take the rows of these, and fuzz nothing"
    )
    parser.add_argument("--page", type=Path, help="write the documentation's page")
    parser.add_argument("--json", type=Path, help="write the rows")
    given = parser.parse_args()
    rows = [row for path in given.read for row in json.loads(path.read_text())]
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as temporary:
        out = given.out or Path(temporary)
        for name in () if given.read else given.targets or TARGETS:
            target = TARGETS[name]
            rows.append(fuzz(target, out / name, given.runs or target.runs, given.seconds, given.seed))
            print(table(rows[-1:]).splitlines()[2], f"{rows[-1]['seconds']:.0f} s", flush=True)
            for found in rows[-1]["found"]:
                print(f"  {found['place']}: {found['said'][-600:]}", flush=True)
            for end in rows[-1]["ended"]:
                print(f"  ended: {end[-600:]}", flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
            if given.keep:
                distil(target, out / name)
    print(table(rows))
    if given.page:
        given.page.write_text(PAGE.format(seconds=SECONDS) + table(rows))
    return int(any(row["bad"] or row["ended"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
