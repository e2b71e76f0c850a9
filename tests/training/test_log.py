"""Where a run's metrics go: metrics.jsonl, and TensorBoard when asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.jobs.train import train
from mecoq_faiss.training.log import recorder
from mecoq_faiss.training.run_folder import RunFolder

MODEL = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=32, D=16, M=2, nbits=4)


def metrics(run: Path) -> list[dict[str, Any]]:
    """All records without the only figure that two equal runs may differ in."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(50, 3, 12)).astype(np.float32))
    return tmp_path / "features.npy"


def test_tensorboard(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=1, batch_size=16)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(ValueError, match="--tensorboard needs TensorBoard"):
            train(features, tmp_path / "run", MODEL, config, tensorboard=True)
        assert not (tmp_path / "run").exists()
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(features, tmp_path / "run", MODEL, config, tensorboard=True)
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    recorded = [r["loss"] for r in metrics(tmp_path / "run") if "step" in r]
    assert [e.step for e in found.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in found.Scalars("loss")] == pytest.approx(recorded)


def test_records_go_to_metrics_jsonl(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write, close = recorder(run, 4, 1, 0, False)
    records = [{"epoch": 1, "step": 1, "loss": 2.5}, {"epoch": 1, "codeword_usage": 0.5}]
    for record in records:
        write(record)
    close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == records
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_steps_that_a_killed_run_did_not_save_are_hidden(tmp_path: Path) -> None:
    """Written after step 1 of epoch 2, continued from the end of epoch 1."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = RunFolder(tmp_path)
    write, close = recorder(run, 3, 1, 0, True)
    for epoch, step in ((1, 1), (1, 2), (1, 3), (2, 1)):
        write({"epoch": epoch, "step": step, "loss": 10.0 * epoch + step})
    write({"epoch": 1, "codeword_usage": 0.25})
    close()
    write, close = recorder(run, 3, 2, 0, True)
    write({"epoch": 2, "step": 1, "loss": 99.0})
    close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 11), (2, 12), (3, 13), (4, 99)]
    assert [(event.step, event.value) for event in found.Scalars("codeword_usage")] == [(3, 0.25)]
