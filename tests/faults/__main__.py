"""`python -m tests.faults`: break the commands until the time is over, and print the table."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and FAISS start: children are forked

from tests.faults.harness import Harness
from tests.faults.tried import FAULTS, Row, joined, page, sample, table, try_all


def main() -> int:
    """1 where a case went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="cases, evenly from all")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--commands", nargs="+", help="only cases of these, as the table names them")
    parser.add_argument("--untimed", action="store_true", help="only what no clock or other load decides")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--page", type=Path, help="write the documentation's page")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--join", type=Path, nargs="+", help="try nothing: put the rows of several runs together")
    given = parser.parse_args()
    if given.join:
        rows = joined([[Row(**row) for row in json.loads(path.read_text())] for path in given.join])
    else:
        with tempfile.TemporaryDirectory() as folder:
            harness = Harness(Path(folder).resolve() / "faults")
            cases = [case for name in given.faults for case in FAULTS[name](harness)]
            cases = [case for case in cases if not given.commands or case.command in given.commands]
            cases = sample([c for c in cases if not (c.timed and given.untimed)], given.most, given.seed)
            print(f"{len(cases)} cases", flush=True)
            rows = try_all(harness, cases, given.seconds, given.workers)
    print(table(rows))
    if given.page:
        given.page.write_text(page(rows))
    if given.json:
        given.json.write_text("[\n" + ",\n".join(json.dumps(row._asdict()) for row in rows) + "\n]\n")
    return int(any(row.bad for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
