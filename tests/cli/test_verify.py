"""`verify`: the figures of a sound bundle; a damaged one is one line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calls import fails, ok


def test_a_sound_bundle(bundle: Path) -> None:
    said = json.loads(ok("verify", bundle, "--json"))
    assert said["files"] == 4 and said["items"] > 1000 and said["max_score_difference"] < 1e-4
    assert ok("verify", bundle).startswith("files")


def test_a_damaged_one_is_one_line(broken: Path) -> None:
    (broken / "index.faiss").write_bytes(b"x")
    assert "differs from the manifest" in fails("verify", broken)
