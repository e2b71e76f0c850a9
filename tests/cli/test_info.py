"""`info`: what it says a path is, the lists that it prints, paths that it refuses."""

from __future__ import annotations

import json
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
