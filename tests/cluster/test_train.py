"""Training on Ray: the run of torchrun, to the byte; what is refused, and what ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="the extra `cluster` is not installed")
from ray.exceptions import ActorDiedError

from mecoq_faiss import ModelConfig, TrainConfig
from mecoq_faiss.cluster.train import _cause, _device, train
from mecoq_faiss.jobs.train import train as train_here
from mecoq_faiss.runtime.ranks import RankLost
from mecoq_faiss.training.run_folder import LOCK, RunFolder
from tests.cli.calls import fails
from tests.training.group import on_ranks

MODEL = ModelConfig(hidden=12, D=8, M=2, nbits=4)
CONFIG = TrainConfig(epochs=4, batch_size=11, memory_size=20)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "views.npy", np.random.default_rng(0).normal(size=(27, 3, 10)).astype(np.float32))
    return tmp_path / "views.npy"


def test_without_ray_it_says_how_to_get_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = fails("train", "--data", data, "--out", data.parent / "run", "--ray", "local")
    assert "pip install 'mecoq-faiss[cluster]'" in message


def test_what_is_wrong_is_said_before_ray_starts(data: Path) -> None:
    (data.parent / "run").mkdir()
    (data.parent / "run" / "mine").touch()
    with pytest.raises(FileExistsError, match="choose another --out"):
        train(data, data.parent / "run")
    for wrong, says in (({"ranks": 0}, "ranks=0"), ({"device": "cuda:1"}, "auto, cpu or cuda")):
        with pytest.raises(ValueError, match=says):
            train(data, data.parent / "new", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 ranks need 3 CPUs, and the Ray has 2: lower --ranks"):
        _device({"CPU": 2.0, "GPU": 1.0}, 3, "auto")
    assert _device({"CPU": 9.0, "GPU": 2.0}, 2, "auto") == "cuda"


def test_the_error_is_that_of_the_rank_that_failed_by_itself() -> None:
    class Failed(Exception):
        def __init__(self, error: Exception) -> None:
            self._base_exc = error

    run, lost, own = RunFolder("run"), Failed(RankLost("another rank")), Failed(ValueError("batch"))
    assert _cause({0: lost, 1: own}, run) is own._base_exc
    assert _cause({0: lost._base_exc, 1: own._base_exc}, run) is own._base_exc
    assert _cause({0: lost, 1: ActorDiedError()}, run) is lost._base_exc
    assert "the last checkpoint is kept in run" in str(_cause({1: ActorDiedError()}, run))


def alone(data: Path, out: Path) -> None:
    train_here(data, out, MODEL, CONFIG, device="cpu")


@pytest.mark.slow
def test_the_run_is_that_of_torchrun_to_the_byte(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    model = train("views.npy", "on-ray", MODEL, CONFIG, ranks=2, device="cpu")
    on_ranks(2, alone, data, data.parent / "by-torchrun")
    for name in ("model.safetensors", "last.pt"):
        assert (data.parent / "on-ray" / name).read_bytes() == (data.parent / "by-torchrun" / name).read_bytes()
    assert not model.training
    assert sorted(os.listdir(data.parent)) == ["by-torchrun", "on-ray", "views.npy"], "nothing of Ray's is left"
    with pytest.raises(ValueError, match="27 readable images are fewer than one batch of 800"):
        train("views.npy", "fails", MODEL, TrainConfig(batch_size=800), ranks=2, device="cpu")
    assert sorted(os.listdir(data.parent)) == ["by-torchrun", "on-ray", "views.npy"]


@pytest.mark.slow
def test_a_killed_worker_ends_the_training_and_the_run_goes_on(data: Path) -> None:
    config = TrainConfig(**{**vars(CONFIG), "epochs": 300})
    run = RunFolder(data.parent / "run")

    def kill() -> None:
        while not (run.metrics_file.exists() and run.metrics_file.stat().st_size):
            time.sleep(0.05)
        os.kill(int((run.path / LOCK).read_text()), signal.SIGKILL)  # the first rank

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match="another rank has ended: run the same command with --resume"):
        train(data, run.path, MODEL, config, ranks=2, device="cpu")
    killer.join()
    assert run.next_epoch() <= 300
    train(data, run.path, ranks=2, device="cpu", resume=True)
    assert run.next_epoch() == 301
