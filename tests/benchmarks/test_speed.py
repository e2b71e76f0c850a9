"""The speed benchmarks at tiny sizes: they run, what they write is complete, what they compare is equal work."""

from __future__ import annotations

import importlib
import json
import socket
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from benchmarks.speed import madeup, measure, page, ranks
from benchmarks.speed.export import PARTS, make_codes, make_run
from benchmarks.speed.search import Codes, hand_made
from benchmarks.speed.steps import SamePair, make_trainer
from benchmarks.speed.train import filled, kept_bytes, memory_config
from mecoq_faiss import MeCoQ, ModelConfig, export_index
from mecoq_faiss.index import build_index, read_codes
from mecoq_faiss.training.pairs import Pair

TINY = {
    "search": "--sizes 2000 3000 --bytes 2 --num-queries 9 --repeats 1 --cluster-size 50",
    "train": "--images 6 --image-size 16 --views 2 --slots 5 896 --batches 4 --steps 2 --repeats 1 --workers 0 "
    "--backbone resnet18 --fine-tuning float32 micro-batches --tuning-batch 4",
    "encode": "--images 5 --image-size 16 --jpeg-side 20 --repeats 1 --workers 0 --backbone resnet18",
    "export": "--sizes 1000 3000 --bytes 2",
    "filtered": "--sizes 2000 --bytes 4 --num-queries 9 --repeats 1",
    "onnx": "--images 12 --train-images 6 --backbone pixels --weights none --image-size 8 --timed --repeats 1",
    "evaluate": "--items 500 --num-queries 20 -k 30 --bytes 2 --repeats 1",
}


@pytest.mark.parametrize("name", TINY)
def test_each_runs_and_records_all(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "results" / f"{name}.json"
    monkeypatch.setattr(sys, "argv", [name, *TINY[name].split(), "--out", str(out)])
    importlib.import_module(f"benchmarks.speed.{name}").main()
    content = json.loads(out.read_text())
    assert {"faiss", "torch", "simd", "faiss_threads", "torch_threads", "cores"} <= content["machine"].keys()
    assert content["machine"]["faiss_threads"] == content["settings"]["threads"] == 1
    for goal in content["goals"]:
        assert goal.keys() == {"goal", "measured", "wanted", "met"} and np.isfinite(goal["measured"])
    assert bool(content["goals"]) == (name != "export")  # whose goals are for 10 M codes and more
    assert str(out) in capsys.readouterr().out
    assert name in ("evaluate", "filtered", "onnx") or out.with_suffix(".png").stat().st_size > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts are Linux's")
def test_bytes_received_are_counted_on_each_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver:
            before = ranks.received()
            sender.sendall(b"x" * 1000)
            assert len(receiver.recv(1000, socket.MSG_WAITALL)) == 1000
            assert ranks.received() - before == 1000


def test_search_writes_points_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "search.json"
    monkeypatch.setattr(sys, "argv", ["search", *TINY["search"].split(), "--out", str(out)])
    importlib.import_module("benchmarks.speed.search").main()
    points = json.loads(out.read_text())["points"]
    assert {(p["kind"], p["n"]) for p in points} == {(k, n) for k in ("pq", "pqfs", "ivfpqfs") for n in (2000, 3000)}
    assert all(p["times_pq"] > 0 and 0 <= p["recall"] <= 1 for p in points)
    assert all(p["recall"] == p["times_pq"] == 1 for p in points if p["kind"] == "pq")


def test_both_sides_of_search_hold_the_same_codes() -> None:
    codes = Codes(num_bytes=2, n=700, clusters=9, nq=5)
    assert {nbits: c.shape for nbits, c in codes.codes.items()} == {8: (700, 2), 4: (700, 4)}
    truth = codes.truth(8)
    D, _ = hand_made(truth.codebooks, truth.codes).search(truth.xq, 10)
    np.testing.assert_array_equal(D, build_index(truth.codebooks, truth.codes).search(truth.xq, 10)[0])
    np.testing.assert_allclose(np.linalg.norm(truth.xq.reshape(5, 2, -1), axis=2), 1, atol=1e-5)


def test_made_up_codes_are_nearest_codewords() -> None:
    mixture = madeup.Mixture(12, 4, clusters=5)
    books = madeup.codebooks_for(mixture, 4, 4)
    np.testing.assert_allclose(np.linalg.norm(books, axis=2), 1, atol=1e-5)
    x, label = mixture.block(3, 50)
    distances = ((x.reshape(50, 4, 1, 3) - books) ** 2).sum(3)  # (n, M, K)
    np.testing.assert_array_equal(madeup.encode(books, x), distances.argmin(2))
    again, label_again = mixture.block(3, 50)
    assert (x == again).all() and (label == label_again).all() and (x != mixture.block(4, 50)[0]).any()
    near = np.linalg.norm(x - madeup.unit(mixture.centers, 4)[label], axis=1)
    other = np.linalg.norm(x - madeup.unit(mixture.centers, 4)[(label + 1) % 5], axis=1)
    assert near.mean() < other.mean()


def test_made_up_codes_of_any_size_can_be_exported(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2, 8)
    make_codes(tmp_path / "codes.h5", run, 1234)
    export_index(run, None, tmp_path / "bundle", codes=tmp_path / "codes.h5")
    codes = read_codes(faiss.read_index(str(tmp_path / "bundle" / "index.faiss")))
    assert codes.shape == (1234, 2) and len(np.unique(codes)) > 200


def test_the_parts_of_an_export_are_its_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "export.json"
    monkeypatch.setattr(sys, "argv", ["export", *TINY["export"].split(), "--kinds", "pq", "--out", str(out)])
    importlib.import_module("benchmarks.speed.export").main()
    content = json.loads(out.read_text())
    for row in content["rows"]:
        parts = row["export_parts_s"]
        assert parts.keys() == {*PARTS, "rest"} and all(seconds > 0 for seconds in parts.values())
        assert sum(parts.values()) == pytest.approx(row["export_s"])
        assert row["plain_write_s / write_s"] > 0
    rates, parts = page._export(content["rows"])
    assert rates.count("\n| pq | ") == parts.count("\n| pq | ") == 2
    assert all(f"| {name} |" in rates for name in page.EXPORT if name != "index") and "| proof |" in parts
    assert parts.splitlines()[4].split(" | ")[1:3] == ["1000", f"{content['rows'][0]['export_parts_s']['check']:.4g}"]
    for row in content["rows"]:  # as older results are
        del row["export_parts_s"], row["plain_write_s / write_s"], row["build_rate / fresh copy"]
    (rates,) = page._export(content["rows"])
    assert "| whole / build | build rate / memcpy |\n" in rates


def test_kept_bytes_count_the_slots_and_what_backward_needs() -> None:
    config = ModelConfig(backbone="features", weights="none", feature_dim=8, hidden=4, M=2, D=4)
    pairs = SamePair(Pair(torch.rand(6, 8), torch.rand(6, 8)), 1)
    none, some = (kept_bytes(filled(make_trainer(MeCoQ(config), pairs, memory_config(slots, 6)))) for slots in (0, 100))
    slots, logits = 100 * 2 * 256 * 4, 12 * 100 * 4
    assert slots + logits <= some - none < slots + 5 * logits + 20 * 100 * 4 * 4


def test_goals_and_turns() -> None:
    assert measure.goal("a", 2.0, at_least=2)["met"] and not measure.goal("a", 1.9, at_least=2)["met"]
    assert measure.goal("a", 1.0, at_most=1)["met"] and not measure.goal("a", 1.1, at_most=1)["met"]
    calls: list[str] = []
    seconds = measure.in_turn({"x": lambda: calls.append("x"), "y": lambda: calls.append("y")}, 3)
    assert calls == ["x", "y", "y", "x", "x", "y"] and all(0 < s < 1 for s in seconds.values())


def test_the_page_of_the_docs_is_that_of_the_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert page.page().count("## ") >= 6
