"""`split`: parts by number or by class; neither is one line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calls import fails, ok


def test_parts_and_classes(picture_bundle: Path, tmp_path: Path) -> None:
    said = json.loads(ok("split", picture_bundle, "--out-dir", tmp_path / "parts", "--parts", 3, "--json"))
    assert said == {"bundles": 3, "items": 40, "items_of_each": {"part-1": 14, "part-2": 13, "part-3": 13}}
    said = json.loads(ok("split", picture_bundle, "--out-dir", tmp_path / "classes", "--by-class", "--json"))
    assert said["items_of_each"] == {"dark": 20, "light": 20}


def test_neither_is_one_line(picture_bundle: Path, tmp_path: Path) -> None:
    assert "one of the two" in fails("split", picture_bundle, "--out-dir", tmp_path / "more")
