"""`remove`: by path or by id; what no item has is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.calls import fails, ok


def test_items_are_removed(three_bundle: Path, three: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(three_bundle, tmp_path / "bundle")
    first = sorted(path.name for path in three.iterdir())[0]
    assert json.loads(ok("remove", bundle, first, "--json")) == {"removed": 1, "items": 2}
    assert json.loads(ok("remove", bundle, "--id", 1, "--json")) == {"removed": 1, "items": 1}


def test_what_is_wrong_is_one_line(three_bundle: Path) -> None:
    assert "has no item 'none.png'" in fails("remove", three_bundle, "none.png")
    assert "one of the two" in fails("remove", three_bundle)
