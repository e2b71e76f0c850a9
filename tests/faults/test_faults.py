"""A sample of the fault harness: whatever is broken, the same command again ends as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds and does is read from Linux's /proc")
def test_commands_survive(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"  # `make faults` tries all
    words = ["--untimed", "--most", "45", "--workers", "1", "--json", str(out)]
    done = subprocess.run([sys.executable, "-m", "tests.faults", *words], capture_output=True, text=True)
    rows = json.loads(out.read_text())
    assert sum(row["cases"] for row in rows) == 45
    assert [bad for row in rows for bad in row["bad"]] == [], done.stderr


def test_what_went_wrong_is_counted_and_told() -> None:
    from tests.faults.tried import Row, joined, page, rows_of  # imports the commands, and FAISS

    rows = rows_of(
        [("add", "EIO", "event 1", None), ("add", "EIO", "event 2", "hangs"), ("add", "SIGINT", "event 1", None)]
    )
    assert rows == [Row("add", "EIO", 2, ["event 2: hangs"]), Row("add", "SIGINT", 1, [])]
    assert joined([rows, rows])[0] == Row("add", "EIO", 4, ["event 2: hangs"] * 2)
    assert "| all | | 3 | 2 | 1 |" in page(rows) and "- add, EIO, event 2: hangs" in page(rows)
