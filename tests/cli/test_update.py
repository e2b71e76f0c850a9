"""`update`: what changed is counted, and `--dry-run` changes nothing; no bundle is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.calls import fails, ok


def test_the_bundle_follows(three_bundle: Path, three: Path, pictures: Path, tmp_path: Path) -> None:
    bundle, photos = (shutil.copytree(path, tmp_path / path.name) for path in (three_bundle, three))
    shutil.copy(pictures / "dark" / "01.png", photos / "new.png")
    before = (bundle / "manifest.json").read_bytes()
    said = json.loads(ok("update", bundle, "--data", photos, "--dry-run", "--json"))
    assert (said["added"], said["items"]) == (1, 4) and (bundle / "manifest.json").read_bytes() == before
    said = json.loads(ok("update", bundle, "--data", photos, "--compact", "--json"))
    assert (said["added"], said["unchanged"], said["items"]) == (1, 3, 4)
    assert not list(bundle.glob("items-*.h5"))


def test_no_bundle_is_one_line(three: Path, tmp_path: Path) -> None:
    assert "is not a bundle" in fails("update", tmp_path / "none", "--data", three)
