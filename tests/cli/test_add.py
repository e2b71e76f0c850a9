"""`add`: images go in under their paths; a missing one is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.calls import fails, ok


def test_images_are_added(three_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(three_bundle, tmp_path / "bundle")
    image = pictures / "dark" / "01.png"
    said = json.loads(ok("add", bundle, image, "--root", pictures, "--json"))
    assert (said["added"], said["items"]) == (1, 4)
    again = ok("add", bundle, image, "--root", pictures).splitlines()
    assert "unchanged" in [line.split()[0] for line in again] and ["items", "4"] in [line.split() for line in again]


def test_a_missing_image_is_one_line(three_bundle: Path, tmp_path: Path) -> None:
    assert "no file" in fails("add", three_bundle, tmp_path / "none.png")
    fails("add", three_bundle, code=2)
