"""A checkpoint whose epoch is another than its own tensors tell is refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train
from mecoq_faiss.training.run_folder import RunFolder
from tests.training.lost import lost_after


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features, and a run of three epochs of four steps, lost in its second."""
    folder = tmp_path_factory.mktemp("begun")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))
    with lost_after(6):
        model = ModelConfig(hidden=8, D=8, M=2, nbits=4)
        train(folder / "x.npy", folder / "run", model, TrainConfig(epochs=3, batch_size=16))
    return folder


def forge(run: Path, epoch: int, step: int = 0) -> None:
    path = run / "last.pt"
    state = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    torch.save(state | {"epoch": epoch, "step": step}, path)


def test_a_forged_end_makes_no_model_trained(begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun / "run", tmp_path / "run"))
    forge(run, 4)
    with pytest.raises(ValueError, match=r"last\.pt does not fit model\.safetensors \(.* is not that of the model\)"):
        RunFolder(run).load_trained()
    with pytest.raises(ValueError, match=r"does not fit model\.safetensors"):
        export_index(run, begun / "x.npy", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("epoch", "step"), [(3, 0), (1, 0), (2, 1), (1, 3)])
def test_training_does_not_go_on_from_a_forged_place(epoch: int, step: int, begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun / "run", tmp_path / "run"))
    forge(run, epoch, step)
    with pytest.raises(ValueError, match=r"last\.pt does not fit config\.json \(its optimizer has made 4 steps, "):
        train(begun / "x.npy", run, resume=True)


def test_the_true_place_is_believed(begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun / "run", tmp_path / "run"))
    train(begun / "x.npy", run, resume=True)
    assert not RunFolder(run).load_trained().training


def test_a_start_is_no_end(begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun / "run", tmp_path / "run"))
    state = torch.load(io.BytesIO((run / "last.pt").read_bytes()), weights_only=True)
    state["optimizer"]["state"] = {}
    torch.save(state | {"epoch": 4, "step": 0}, run / "last.pt")
    with pytest.raises(ValueError, match="its optimizer has made no step"):
        RunFolder(run).load_trained()
