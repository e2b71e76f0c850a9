"""`train`: the run that it writes, what it chooses by itself, resuming, and what it refuses, leaving nothing behind."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, train
from mecoq_faiss.training import start
from mecoq_faiss.training.run_folder import RunFolder
from tests.cli.calls import QUICK, call, fails, ok


def test_it_writes_a_run(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "last.pt", "metrics.jsonl", "model.safetensors", "split.json"}
    split = json.loads((run / "split.json").read_text())
    assert split["protocol"]["name"] == "digits" and len(split["paths"]) == 1500


def test_tensorboard_events_when_asked(tmp_path: Path) -> None:
    ok("train", "--data", "digits", "--out", tmp_path / "board", *QUICK, "--tensorboard")
    assert list((tmp_path / "board" / "tensorboard").glob("events.out.tfevents.*"))


def test_digits_need_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, small, in views that only crop; what is said explicitly wins."""
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("asked the network"))
    result = call("train", "--data", "digits", "--out", tmp_path / "digits", "--epochs", 1)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("digits: ")]
    assert "backbone=pixels, image_size=8, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0 unless told otherwise" in line
    model, settings = RunFolder(tmp_path / "digits").read_config()
    assert (model.backbone, model.image_size, model.bits, model.D) == ("pixels", 8, 32, 64)
    assert (settings.flip, settings.gray, settings.jitter_p, settings.blur) == (0, 0, 0, 0)
    assert (settings.batch_size, settings.cached_views) == (512, 40)
    more = ("--image-size", 6, "--set", "flip=0.5", "--views", 2, "--bits", 16)
    ok("train", "--data", "digits#train", "--out", tmp_path / "digits-6", "--epochs", 1, *more)
    model, settings = RunFolder(tmp_path / "digits-6").read_config()
    assert (model.backbone, model.image_size, model.M) == ("pixels", 6, 2)
    assert (settings.flip, settings.gray, settings.cached_views) == (0.5, 0, 2)


def test_few_odd_images_need_no_options(pictures: Path, tmp_path: Path) -> None:
    """41 of them, fewer than a batch; one is broken, which is said once."""
    few = ("--backbone", "pixels", "--image-size", 8, "--epochs", 1, "--views", 2)
    result = call("train", "--data", pictures, "--out", tmp_path / "run", *few)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("broken.jpg") == 1 and "1 of 41 images cannot be read" in result.stderr
    assert result.stderr.count("batch size 20, half of the images; --batch-size changes it") == 1
    assert RunFolder(tmp_path / "run").read_config()[1].batch_size == 20
    again = fails("train", "--data", pictures, "--out", tmp_path / "none", *few, "--batch-size", 512)
    assert "fewer than one batch of 512: give more images or a smaller --batch-size" in again


def test_a_budget_chooses_the_views(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("train", "--data", pictures, "--backbone", "pixels", "--image-size", 8, "--epochs", 1)
    monkeypatch.setattr(start, "forward_rate", lambda *a: 10.0)  # 41 images: 20 s for 5 views of each
    for time, views in (("20.5s", 5), ("0.4m", 5), ("1s", 2), ("9h", 40), ("1h --views 3", 3)):
        out = tmp_path / f"budget-{time}"
        ok(*quick, "--out", out, "--budget", *time.split())
        assert RunFolder(out).read_config()[1].cached_views == views
    ok(*quick, "--out", tmp_path / "paper", "--preset", "nuswide-16", "--batch-size", 16, "--views", 2)
    assert RunFolder(tmp_path / "paper").read_config()[1].view_cache  # which the preset has not
    never = fails(*quick, "--out", tmp_path / "fresh", "--budget", "1m", "--no-view-cache")
    assert "leave --budget out" in never and not (tmp_path / "fresh").exists()
    assert "--budget" in ok("train", "--help") and "TIME" in ok("train", "--help")


def test_the_command_that_started_a_run_continues_it(features: Path, tmp_path: Path) -> None:
    """Its settings are those that the run was started with, also where one follows from another, or from the data."""
    base = ("train", "--data", features, "--out", tmp_path / "run")
    options = ("--preset", "cifar10-ii-32", "--bits", "16", "--epochs", "1", "--batch-size", "64", "--set", "lr=0.1")
    for more in ("", "--resume", "--resume --workers 0"):
        ok(*base, *options, *more.split())
    for equal in ("--bits 16", "", "--dim 24 --backbone vgg16"):
        ok(*base, *equal.split(), "--resume")
    for other in ("--bits 32", "--preset cifar10-ii-16", "--nbits 4"):
        assert " contradicts " in fails(*base, *other.split(), "--resume")


@pytest.mark.parametrize("option", ["epochs=200", "lr=0.5", "hidden=8"])
def test_resume_with_other_settings(option: str, features: Path, feature_run: Path, tmp_path: Path) -> None:
    """Of a run that is finished, and of one that is not: neither is touched."""

    def stop(record: dict[str, object]) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        config = TrainConfig(batch_size=128)
        train(features, tmp_path / "run", ModelConfig(M=2, D=16, hidden=32), config, callback=stop)
    name = option.partition("=")[0]
    message = rf"^Error: {option} contradicts .*, which was started with {name}=.*: leave {name} out, or train anew"
    for out in (feature_run, tmp_path / "run"):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert re.match(message, fails("train", "--data", features, "--out", out, "--set", option, "--resume"))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_wrong_choices_are_exit_2() -> None:
    train = ("train", "--data", "digits", "--out", "nowhere/run")
    assert "'cifar10-ii-32'" in fails(*train, "--preset", "cifar10", code=2)
    for wrong in ("30", "m", "-3m", "0s", "half an hour", "1e3s", "3d", "nanm"):
        assert "90s, 30m or 2h" in fails(*train, "--budget", wrong, code=2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--backbone", "resnet5"), "did you mean"),
        (("--bits", "36", "--nbits", "8"), "multiple of 8"),
        (("--nbits", "5"), "nbits"),
        (("--dim", "30"), "not divisible by M=4"),
        (("--set", "temprature=0.4"), "unknown setting"),
        (("--set", "temperature=hot"), "temperature"),
        (("--batch-size", "5000"), "fewer"),
        (("--device", "cuda:99"), "not available"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--weights", "nowhere.pth", "--backbone", "resnet18"), "nowhere.pth"),
    ],
)
def test_settings_are_refused_in_one_line(tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    arguments = [*QUICK, *more]
    assert says in fails("train", "--data", "digits", "--out", tmp_path / "run", *arguments)
    assert not any(tmp_path.iterdir())


def test_bad_data_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no image")
    (tmp_path / "bad").mkdir()
    for i in range(4):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"nothing")
    bad = np.ones((300, 8), np.float32)
    bad[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    before = sorted(tmp_path.rglob("*"))
    for data, says in (
        ("nowhere", "nowhere"),
        (tmp_path / "empty", "empty"),
        (tmp_path / "text", "image"),
        (tmp_path / "nan.npy", "NaN"),
    ):
        assert says in fails("train", "--data", data, "--out", out, *QUICK, "--batch-size", 4)
    assert "no readable image" in fails("train", "--data", tmp_path / "bad", "--out", out, *QUICK, "--batch-size", 4)
    assert sorted(tmp_path.rglob("*")) == before


def test_out_that_exists_or_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "exists" in fails("train", "--data", "digits", "--out", run, *QUICK)
    assert "cannot write" in fails("train", "--data", "digits", "--out", tmp_path / "file" / "run", *QUICK)
