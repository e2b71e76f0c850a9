"""The run folder: what is written is read back, and damage is named in one line."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.jobs.export_index import export_index
from mecoq_faiss.jobs.train import train
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.run_folder import RunFolder, load_model

MODEL = ModelConfig(hidden=8, D=8, M=2, nbits=4)
TRAIN = TrainConfig(epochs=2, batch_size=16, memory_size=20, memory_start_epoch=1)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "features.npy"
    np.save(path, np.random.default_rng(0).normal(size=(64, 2, 6)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def whole(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(features, out, MODEL, TRAIN)
    return out


@pytest.fixture(scope="module")
def stopped(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, lost in its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    step, done = Objective.after_step, []

    def after_step(self: Objective) -> None:
        step(self)
        done.append(1)
        if len(done) == 6:
            raise SystemExit

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Objective, "after_step", after_step)
        train(features, out, MODEL, TRAIN)
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def edit(**changes: object) -> Callable[[bytes], bytes]:
    """Change settings of config.json, or top-level entries."""

    def change(content: bytes) -> bytes:
        values = json.loads(content)
        for name, value in changes.items():
            section = next((s for s in ("model", "train") if name in values[s]), None)
            (values[section] if section else values)[name] = value
        return json.dumps(values).encode()

    return change


def other_state(**changes: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        state = torch.load(io.BytesIO(content), weights_only=True)
        for name, value in changes.items():
            if value is None:
                del state[name]
            else:
                state[name] = value
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    return change


DAMAGE = {
    "last.pt": [cut(0), cut(0.5), cut(0.99), lambda c: b"not a zip", other_state(format=99), other_state(epoch=None),
                other_state(objective={}), other_state(optimizer={}), other_state(objective=3)],
    "model.safetensors": [cut(0), cut(0.5), cut(0.99), lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"no tensors"],
    "config.json": [cut(0), cut(0.5), lambda c: b"[]", lambda c: b"{}", lambda c: b"\xff\xfe\x00", edit(format=99),
                    edit(D=16), edit(D=9), edit(M=4), edit(memory_size=21), edit(epochs="2"), edit(optimizer="sgd"),
                    edit(epochs=3), edit(alpha=9.0),
                    edit(train=None), edit(backbone="resnot")],
    "split.json": [cut(0), cut(0.5), lambda c: b"[]", lambda c: b"{}", lambda c: b"\xff\xfe\x00"],
}  # fmt: skip


@pytest.mark.parametrize(("file", "number"), [(file, i) for file, ways in DAMAGE.items() for i in range(len(ways))])
def test_damage_is_named_in_one_line_and_nothing_is_changed(
    file: str, number: int, features: Path, run: Path, whole: Path, tmp_path: Path
) -> None:
    content = DAMAGE[file][number]((run / file).read_bytes())
    (run / file).write_bytes(content)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(ValueError) as error:
        train(features, run, resume=True)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_an_encoder_is_no_run(features: Path, whole: Path, tmp_path: Path) -> None:
    export_index(whole, features, tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"config\.json has no training settings: give a folder that train made"):
        RunFolder(tmp_path / "bundle" / "encoder").read_config()


@pytest.mark.parametrize("file", ["model.safetensors", "split.json"])
def test_a_missing_file_is_named(file: str, features: Path, run: Path) -> None:
    (run / file).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=file):
        train(features, run, resume=True)


@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(0.6), lambda c: c + b'{"epoch": 2, "st', lambda c: b"5\n[]\n{}\n" + c, lambda c: c + b"\xff\xfe\n"],
)
def test_damaged_metrics_do_not_stop_a_run(
    damage: Callable[[bytes], bytes], features: Path, run: Path, whole: Path
) -> None:
    (run / "metrics.jsonl").write_bytes(damage((run / "metrics.jsonl").read_bytes()))
    train(features, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    places = [(r["epoch"], r.get("step")) for r in RunFolder(run).read_metrics()]
    assert places[-5:] == [(2, 1), (2, 2), (2, 3), (2, 4), (2, None)] and len(set(places)) == len(places)


def test_any_flipped_bit_of_the_state_is_harmless_or_refused(run: Path) -> None:
    folder = RunFolder(run)
    content, state = folder.state_file.read_bytes(), folder.load_state()
    refused = 0
    for place in np.linspace(0, len(content) - 1, 150).astype(int):
        folder.state_file.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        try:
            found = folder.load_state()
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            torch.testing.assert_close(found["objective"], state["objective"], rtol=0, atol=0)
            torch.testing.assert_close(found["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
            assert (found["epoch"], found["step"]) == (state["epoch"], state["step"])
    assert refused > 50


def test_any_flipped_bit_of_the_model_is_refused(whole: Path, tmp_path: Path) -> None:
    model_config, _ = RunFolder(whole).read_config()
    content = (whole / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    for place in np.linspace(0, len(content) - 1, 150).astype(int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            load_model(model_config, path)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError(f"byte {place} of {len(content)}: {content[place - 20 : place + 20]!r}")


def test_only_finished_runs_are_loaded(run: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unfinished \(epoch 2 of 2\): continue it with --resume"):
        RunFolder(run).load_trained()
    (run / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"unfinished \(epoch 1 of 2\)"):
        RunFolder(run).load_trained()
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        RunFolder(tmp_path).load_trained()
    assert not RunFolder(whole).load_trained().training


def test_a_finished_run_with_other_settings_is_refused(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "config.json").write_bytes(edit(alpha=9.0)((run / "config.json").read_bytes()))
    with pytest.raises(ValueError, match=r"config.json is not as the run was started"):
        RunFolder(run).load_trained()


def test_no_pickle_but_tensors_is_read(run: Path) -> None:
    torch.save({"format": 1, "epoch": 3, "step": 0, "objective": Path("x"), "optimizer": {}}, run / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is damaged .*Weights only load failed"):
        RunFolder(run).load_state()


def test_leftovers_of_a_killed_run_go(features: Path, run: Path) -> None:
    (run / ".last.pt.77.tmp").write_bytes(b"half")
    train(features, run, resume=True)
    assert {p.name for p in run.iterdir()} == {
        "config.json", "last.pt", "metrics.jsonl", "model.safetensors", "split.json"
    }  # fmt: skip


def test_remove_leaves_what_is_not_ours(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    RunFolder(run).remove()
    assert [p.name for p in run.iterdir()] == ["notes.txt"]
