"""File names of every kind from end to end: exported, searched, listed, drawn, renamed, removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.calls import fails, ok

NAMES = (
    "a\nb.png", "\udcff\udcfe.png", "x" * 251 + ".png", "é.png", "-rf.png", "$(x).png", "a\\b.png", " .png",
    "\x1b[2J.png", "<b>&amp;.png", "'\".png", "\u202egnp.png", "\u2028.png", "a,b;c\t.png",
)  # fmt: skip


def stored(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of such names, and a bundle of it."""
    folder = tmp_path_factory.mktemp("strange")
    (folder / "photos").mkdir()
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed // 2).integers(0, 255, (8, 8, 3), dtype=np.uint8)  # pairs of duplicates
        Image.fromarray(pixels).save(folder / "photos" / name)
    ok(
        "train", "--data", folder / "photos", "--out", folder / "run", "--backbone", "pixels", "--image-size", 8,
        "--epochs", 1, "--bits", 16, "--batch-size", 4, "--views", 2, "--json",
    )  # fmt: skip
    ok("export-index", folder / "run", "--data", folder / "photos", "--out", folder / "bundle")
    return folder


def test_a_search_names_each_in_json_and_in_a_line_of_its_own(strange: Path) -> None:
    queries = [strange / "photos" / name for name in NAMES]
    said = json.loads(ok("search", strange / "bundle", *queries, "-k", len(NAMES), "--json"))
    assert [row["query"] for row in said] == [str(query) for query in queries]
    for row in said:
        assert sorted(hit["path"] for hit in row["hits"]) == sorted(map(stored, NAMES))
    lines = ok("search", strange / "bundle", *queries, "-k", len(NAMES)).removesuffix("\n").split("\n")
    assert len(lines) == len(NAMES) * (1 + len(NAMES)) and all(line.isprintable() for line in lines)


def test_duplicates_are_listed_and_drawn(strange: Path) -> None:
    options = ("--images", strange / "photos", "--html", strange / "page.html")
    groups = json.loads(ok("dedup", strange / "bundle", *options, "--json"))["groups"]
    assert sorted(item["path"] for group in groups for item in group) == sorted(map(stored, NAMES))
    lines = ok("dedup", strange / "bundle", *options).removesuffix("\n").split("\n")
    assert len(lines) == len(groups) + len(NAMES) + 1 and all(line.isprintable() for line in lines)
    page = (strange / "page.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;b&gt;&amp;amp;.png" in page and page.count("<img") == len(NAMES)


def test_they_are_renamed_and_removed(strange: Path) -> None:
    bundle, photos = strange / "bundle", strange / "photos"
    os.rename(photos / NAMES[1], photos / "\udcaa\n.png")
    done = json.loads(ok("update", bundle, "--data", photos, "--json"))
    assert (done["renamed"], done["added"], done["items"]) == (1, 0, len(NAMES))
    done = json.loads(ok("remove", bundle, "--json", "--", "\udcaa\n.png", NAMES[0], NAMES[4]))
    assert done == {"removed": 3, "items": len(NAMES) - 3}


def test_an_error_is_one_line_that_a_terminal_can_show(strange: Path) -> None:
    for name in ("none\n\x1b[2J.png", "\udcff.png", "\u2028.png"):
        assert fails("search", strange / "bundle", strange / name).isprintable()
        assert fails("info", strange / name).isprintable()
