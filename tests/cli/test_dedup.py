"""`dedup`: its table, JSON and page, and that `--remove` asks and keeps the lowest ids."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mecoq_faiss_cli.dedup as module
from mecoq_faiss import dedup
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from tests.cli.calls import call, fails, ok


@pytest.fixture
def own(picture_run: Path, tmp_path: Path) -> Path:
    """Ten pictures, two of them twice and one three times, and their bundle."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR).save(photos / f"{i}.png")
    for old, new in (("3", "3-copy"), ("5", "5-copy"), ("7", "7-copy"), ("7", "7-second")):
        shutil.copy(photos / f"{old}.png", photos / f"{new}.png")
    ok("export-index", picture_run, "--data", photos, "--out", tmp_path / "bundle")
    return tmp_path


def arguments(own: Path) -> tuple[object, ...]:
    return ("dedup", own / "bundle", "--images", own / "photos", "--cosine", 0.99999)


def test_the_table_and_json(own: Path) -> None:
    lines = ok(*arguments(own)).splitlines()
    assert lines[0] == "group 1" and lines[-1] == "3 groups of 7 items" and len(lines) == 11
    assert re.fullmatch(r" +\d+  first +2\.0000  3(-copy)?\.png", lines[1])
    assert re.fullmatch(r" +\d+  exact +2\.0000  3(-copy)?\.png", lines[2])
    said = json.loads(ok(*arguments(own), "--json"))
    expected = dedup(own / "bundle", own / "photos", cosine=0.99999)
    assert said == {"groups": [[item._asdict() for item in group] for group in expected], "removed": 0}


def test_the_page(own: Path) -> None:
    ok(*arguments(own), "--html", own / "page.html")
    assert (own / "page.html").read_text().count("data:image/jpeg;base64,") == 7
    ok("dedup", own / "bundle", "--html", own / "made" / "plain.html")
    assert "<img" not in (own / "made" / "plain.html").read_text()
    assert "cannot write to" in fails("dedup", own / "none", "--html", own / "page.html" / "page.html")  # at once


def test_remove_keeps_the_lowest_ids(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, photos = own / "bundle", own / "photos"
    groups = dedup(bundle, photos, cosine=0.99999)
    before = (bundle / "manifest.json").read_bytes()
    assert "add --yes" in fails(*arguments(own), "--remove")
    monkeypatch.setattr(module, "_can_ask", lambda: True)
    refused = call(*arguments(own), "--remove")  # an empty answer
    assert refused.exit_code == 1 and "Remove 4 items" in refused.stderr
    assert (bundle / "manifest.json").read_bytes() == before
    said = json.loads(ok(*arguments(own), "--remove", "--yes", "--json"))
    assert said["removed"] == 4 and len(said["groups"]) == 3
    with pinned(bundle) as files, items_in(files) as items:
        left = set(items.ids.tolist())
    assert left == set(range(14)) - {item.id for group in groups for item in group[1:]}
    assert dedup(bundle, photos, cosine=0.99999) == [] and len(list(photos.iterdir())) == 14
    assert ok(*arguments(own), "--remove", "--yes").splitlines() == ["0 groups of 0 items", "0 removed"]
    (own / "bundle.update").mkdir()  # a kill came when it was done
    (own / "bundle.update" / ".lock").touch()
    assert ok(*arguments(own), "--remove", "--yes").splitlines() == ["0 groups of 0 items", "0 removed"]
    assert not (own / "bundle.update").exists()
