"""A sample of the fault harness: whatever is broken, the same command again ends as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # `make faults` runs all of them
@pytest.mark.parametrize(("fault", "most"), [("kill", 20), ("disk", 20), ("damage", 20)])
def test_commands_survive(fault: str, most: int, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    words = ["--faults", fault, "--most", str(most), "--workers", "1", "--json", str(out)]
    done = subprocess.run([sys.executable, "-m", "tests.faults", *words], capture_output=True, text=True)
    rows = json.loads(out.read_text())
    assert sum(row["cases"] for row in rows) == most
    assert [bad for row in rows for bad in row["bad"]] == [], done.stderr
