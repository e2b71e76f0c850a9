"""The long runs at small sizes: what they measure is flat, what they compare is equal; and they see what is not so."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import __main__ as command
from benchmarks.soak import readers, shards, updates
from benchmarks.soak.gauge import Gauge
from mecoq_faiss import remove


def test_growth_is_the_slope_past_the_start() -> None:
    gauge = Gauge()
    gauge.samples = [(i, (5 if i < 20 else 100 + i) * 10**6, 0, 7 + (i == 50)) for i in range(101)]
    growth = gauge.growth()
    assert growth["memory_mb"] == {"first": 120.0, "last": 200.0, "most": 200.0, "slope": 100.0}
    assert growth["open_files"]["most"] == 8 and growth["samples"] == 81


def test_a_leak_shows() -> None:
    gauge, leak, files = Gauge(), [], []
    for i in range(20):
        leak.append(mmap.mmap(-1, 1 << 21, flags=mmap.MAP_PRIVATE))  # never a page that was freed before
        leak[-1].write(bytes([1]) * (1 << 21))
        files.append(open("/dev/null"))  # noqa: SIM115
        gauge.sample(i + 1)
    growth = gauge.growth()
    for file in files:
        file.close()
    assert growth["open_files"]["slope"] == pytest.approx(20, abs=1) and growth["memory_mb"]["slope"] > 30


def test_shards_take_no_more_as_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mecoq_faiss.bundle.encoded.SHARD_ROWS", 2048)
    found = shards.run(tmp_path, rows=150_000, images=2_000, workers=1)
    assert (found["features"]["rows"], found["images"]["rows"]) == (150_000, 2_000)
    assert found["images"]["children_mb"]["first"] > 0, "the worker was looked at"
    for of in found.values():
        assert of["samples"] > 20 and abs(of["open_files"]["slope"]) < 1
        assert of["memory_mb"]["slope"] < 8, "150,000 rows held until the end would be 20 and more"


def test_updates_in_a_row_pile_nothing_up(tmp_path: Path) -> None:
    found = updates.run(tmp_path, updates=10, images=40)
    assert found["equal to a fresh export"]
    assert found["files"][1] <= 16 + 12 and found["segments"][1] <= 17
    assert found["open_files"]["slope"] < 1 and found["disk_mb"][2] < 1.2 * found["disk_mb"][0]


def test_every_answer_is_right_for_its_generation(tmp_path: Path) -> None:
    found = readers.run(tmp_path, updates=2, threads=3, processes=1, images=40)
    assert found["wrong"] == found["errors"] == 0, found["examples"]
    assert found["searches"] > 30 and found["generations answered from"] >= 2


def test_a_wrong_answer_is_seen(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    updates.Collection(tmp_path / "photos", 30)
    bundle = tmp_path / "bundle"
    updates.make_bundle(tmp_path / "photos", tmp_path / "run", bundle)
    queries = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    with readers.open_bundle(bundle, "cpu") as opened:
        [hits] = opened.search(queries[0], k=readers.K)
    right = readers.Answer(0, 0, 0, tuple((hit.score, hit.id, hit.path) for hit in hits))
    truth = readers._Truth(bundle, queries)
    assert truth.holds(right) and not truth.holds(right._replace(query=1))
    score, id, path = right.found[0]
    for wrong in ((score + 0.01, id, path), (score, id + 1, path), (score, id, "other.png")):
        assert not truth.holds(right._replace(found=(wrong, *right.found[1:])))
    assert not truth.holds(right._replace(found=right.found[:-1] + right.found[:1]))
    remove(bundle, [id])
    assert not readers._Truth(bundle, queries).holds(right), "of an older generation"


def test_the_command_keeps_what_other_runs_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "soak.json"
    out.write_text('{"updates": {"old": 1}}')
    monkeypatch.setattr(shards, "run", lambda folder: {"rows": 1})
    monkeypatch.setattr(sys, "argv", ["soak", "shards", "--out", str(out)])
    command.main()
    assert json.loads(out.read_text()) == {"updates": {"old": 1}, "shards": {"rows": 1}}
    monkeypatch.setattr(sys, "argv", ["soak", "none"])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown none" in capsys.readouterr().err
