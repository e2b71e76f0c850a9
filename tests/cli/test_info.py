"""`info`: what it says a path is, the lists that it prints, paths that it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from mecoq_faiss.index import KINDS
from mecoq_faiss.presets import PRESETS
from tests.cli.calls import fails, ok


def test_each_kind_of_path_is_described(run: Path, bundle: Path) -> None:
    kinds = {path: json.loads(ok("info", path, "--json"))["type"] for path in (run, bundle, bundle / "index.faiss")}
    assert list(kinds.values()) == ["run", "bundle", "index"]
    assert json.loads(ok("info", bundle / "items.h5", "--json"))["type"] == "encoded"
    assert json.loads(ok("info", run, "--json"))["finished"] is True


def test_it_lists_what_there_is_to_choose_from() -> None:
    assert json.loads(ok("info", "--presets", "--json")).keys() == PRESETS.keys()
    assert tuple(json.loads(ok("info", "--kinds", "--json"))) == KINDS
    lines = ok("info", "--presets").splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert "vgg16 at 224 px (2 layers learn), D=48, temperature 0.35" in lines[list(PRESETS).index("cifar10-ii-32")]


@pytest.mark.parametrize("nothing_or_both", [(), ("x", "--presets"), ("--presets", "--kinds")])
def test_one_thing_is_asked_for(nothing_or_both: tuple[str, ...]) -> None:
    assert "one of them" in fails("info", *nothing_or_both, code=2)


def test_paths_that_are_refused(broken: Path) -> None:
    assert "does not exist" in fails("info", broken / "nowhere")
    index, manifest = broken / "index.faiss", broken / "manifest.json"
    index.write_bytes(index.read_bytes()[:-100])
    fails("info", index)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    assert "newer" in fails("info", broken)


def told(bundle: Path) -> None:
    """Write a history of three updates, of which the second encoded too few images to measure."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    measured = [{"auc": 0.5, "divergence": 0.01}, {"new": 3}, {"auc": 0.7, "divergence": 0.2}]
    manifest["history"] = [
        {"time": "2026-01-01T00:00:00+00:00", "items": items, "drift": drift}
        for items, drift in zip((10, 13, 40), measured, strict=True)
    ]
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_the_history_of_a_bundle_is_drawn(broken: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "never updated" in fails("info", broken, "--plot", tmp_path / "history.svg")
    told(broken)
    assert json.loads(ok("info", broken, "--json", "--plot", tmp_path / "history.svg"))["type"] == "bundle"
    svg = (tmp_path / "history.svg").read_text()
    heights = {}
    for name in ("items", "auc", "divergence"):
        group = svg.split(f'<g id="{name}">')[1]
        heights[name] = [-float(y) for y in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", group[: group.index("/>")])]
    assert [len(ys) for ys in heights.values()] == [3, 2, 2]
    a, b, c = heights["items"]
    assert (b - a) / (c - a) == pytest.approx(3 / 30, abs=1e-3)
    assert heights["auc"][0] < heights["auc"][1] and heights["divergence"][0] < heights["divergence"][1]
    ok("info", broken, "--plot", tmp_path / "history.PNG")
    assert (tmp_path / "history.PNG").read_bytes().startswith(b"\x89PNG")


def test_plots_that_are_refused(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(broken)
    assert "ends in .svg or .png" in fails("info", broken, "--plot", tmp_path / "history.gif")
    assert "give a bundle" in fails("info", "--kinds", "--plot", tmp_path / "history.svg", code=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'mecoq-faiss[report]'" in fails("info", broken, "--plot", tmp_path / "history.svg")
    assert not list(tmp_path.glob("history*"))
