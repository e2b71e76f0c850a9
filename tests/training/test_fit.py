"""Fitting a source into a run folder: begun where there is nothing, continued, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss.backbone.network import Backbone
from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.sources import FeatureSource, ImageSource, open_source
from mecoq_faiss.training.fit import check_out, fit_run
from mecoq_faiss.training.run_folder import RunFolder

MODEL = ModelConfig(hidden=8, D=8, M=2, nbits=4)
TRAIN = TrainConfig(epochs=1, batch_size=10)


@pytest.fixture
def source(tmp_path: Path) -> ImageSource | FeatureSource:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32))
    return open_source(tmp_path / "x.npy", "train")


@pytest.mark.parametrize("files", [[], [".model.safetensors.77.tmp"]])
def test_an_empty_folder_is_begun_in(files: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("half")
    check_out(RunFolder(tmp_path / "new"), False)
    for resume in (False, True) if not files else (True,):
        check_out(RunFolder(tmp_path), resume)


def test_what_is_in_the_way(source: FeatureSource, tmp_path: Path) -> None:
    fit_run(source, tmp_path / "run", MODEL, TRAIN)
    check_out(RunFolder(tmp_path / "run"), True)
    with pytest.raises(FileExistsError, match=r"run exists: choose another --out, or continue it with --resume"):
        check_out(RunFolder(tmp_path / "run"), False)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        check_out(RunFolder(tmp_path / "run"), True)
    with pytest.raises(FileExistsError, match="is a file"):
        check_out(RunFolder(tmp_path / "x.npy"), True)
    for resume, says in ((False, "exists: choose another"), (True, "holds other files, and no run to continue")):
        with pytest.raises(FileExistsError, match=says):
            check_out(RunFolder(tmp_path), resume)


def test_the_model_that_comes_back_is_the_one_in_the_folder(source: FeatureSource, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model = fit_run(source, tmp_path / "run", MODEL, TRAIN)
    assert torch.equal(torch.rand(4), expected), "the caller's random state"
    assert not model.training and model.config == replace(MODEL, backbone="features", weights="none", feature_dim=6)
    saved = RunFolder(tmp_path / "run").load_trained()
    torch.testing.assert_close(saved.state_dict(), model.state_dict(), rtol=0, atol=0)
    records = RunFolder(tmp_path / "run").read_metrics()
    assert [record.get("step") for record in records] == [1, 2, 3, None]  # 24 images in batches of 10


def test_settings_left_out_are_the_runs_own_on_resume(source: FeatureSource, tmp_path: Path) -> None:
    fit_run(source, tmp_path / "run", MODEL, TRAIN)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    for model, train in ((None, None), (MODEL, None), (None, replace(TRAIN, workers=2, batch_size=0))):
        again = fit_run(source, tmp_path / "run", model, train, resume=True)
        assert again.config.hidden == 8
    with pytest.raises(
        ValueError, match=r"^hidden=9 contradicts .*run, which was started with hidden=8 .*leave hidden"
    ):
        fit_run(source, tmp_path / "run", replace(MODEL, hidden=9), None, resume=True)
    with pytest.raises(ValueError, match=r"^seed=1 contradicts .*started with seed=0"):
        fit_run(source, tmp_path / "run", None, replace(TRAIN, seed=1), resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("compile", [True, False])
def test_the_network_is_compiled_when_asked(
    compile: bool, source: FeatureSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Backbone] = []
    monkeypatch.setattr(Backbone, "compile_net", lambda self: called.append(self))
    model = fit_run(source, tmp_path / "run", MODEL, replace(TRAIN, compile=compile))
    assert called == ([model.backbone] if compile else [])


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (MODEL, {"optimizer": "sgd"}),
        (MODEL, {"optimizer": "sgd", "momentum": 0.0}),
        (replace(MODEL, freeze_codebooks=True), {"memory_kind": "hard"}),
        (replace(MODEL, nbits=4, codes="additive"), {}),
        (replace(MODEL, projection="linear", standardize=False), {"memory_size": 0}),
    ],
)
def test_every_kind_of_state_is_continued_to_the_same_bytes(
    model: ModelConfig, changes: dict, source: FeatureSource, tmp_path: Path
) -> None:
    config = replace(TRAIN, epochs=2, memory_size=7, memory_start_epoch=1)
    config = replace(config, **changes)
    fit_run(source, tmp_path / "whole", model, config)

    def stop(record: dict) -> None:
        if (record["epoch"], record.get("step")) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(source, tmp_path / "stopped", model, config, callback=stop)
    assert RunFolder(tmp_path / "stopped").next_epoch() == 2
    fit_run(source, tmp_path / "stopped", None, None, resume=True)
    for name in ("model.safetensors", "last.pt"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_polishing_changes_the_codebooks_alone_and_is_continued_to_the_same_bytes(
    source: FeatureSource, tmp_path: Path
) -> None:
    polished = replace(TRAIN, polish_rounds=5)
    plain = fit_run(source, tmp_path / "plain", MODEL, TRAIN).state_dict()
    model = fit_run(source, tmp_path / "whole", MODEL, polished).state_dict()
    assert [name for name in plain if not torch.equal(plain[name], model[name])] == ["quantizer.codebooks"]

    def stop(record: dict) -> None:
        if record.get("step") == 3:  # the last one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(source, tmp_path / "stopped", MODEL, polished, callback=stop)
    fit_run(source, tmp_path / "stopped", resume=True)
    for name in ("model.safetensors", "last.pt"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
