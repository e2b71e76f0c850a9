"""`merge`: bundles of one model become one; equal ids are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calls import fails, ok


def test_bundles_are_joined(three_bundle: Path, picture_bundle: Path, tmp_path: Path) -> None:
    arguments = ("merge", three_bundle, picture_bundle, "--out", tmp_path / "whole")
    assert "give --new-ids" in fails(*arguments)
    said = json.loads(ok(*arguments, "--new-ids", "--json"))
    assert said == {"bundle": str(tmp_path / "whole"), "kind": "pq", "items": 43}
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["source"] == f"{three_bundle}, {picture_bundle}"


def test_other_models_are_one_line(three_bundle: Path, bundle: Path, tmp_path: Path) -> None:
    fails("merge", three_bundle, bundle, "--out", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
