"""The run folder: what is written is read back, and damage is named in one line."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.jobs.export_index import export_index
from mecoq_faiss.jobs.train import train
from mecoq_faiss.training.run_folder import RunFolder
from tests.training.lost import lost_after

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
    with lost_after(6):
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


def forged(way: str) -> Callable[[bytes], bytes]:
    """A whole checkpoint whose tensors, numbers or archive are not those of the run."""

    def change(content: bytes) -> bytes:
        state = torch.load(io.BytesIO(content), weights_only=True)
        objective, optimizer = state["objective"], state["optimizer"]
        weight, moments = objective["model.projection.0.weight"], optimizer["state"][0]
        match way:
            case "shape":
                objective["model.projection.0.weight"] = weight[:, :-1].clone()
            case "dtype":
                objective["model.projection.0.weight"] = weight.double()
            case "repeated":
                objective["model.projection.0.weight"] = torch.zeros(1).expand(weight.shape)
            case "no tensor":
                objective["model.projection.0.weight"] = [1.0]
            case "moments":
                moments["exp_avg"] = torch.zeros(1, 2)
            case "moments repeated":
                moments["exp_avg"] = torch.zeros(1).expand(1 << 40)
            case "moments of another name":
                moments["momentum_buffer"] = moments.pop("exp_avg")
            case "step of the optimizer":
                moments["step"] = 3
            case "unknown parameter":
                optimizer["state"][99] = optimizer["state"].pop(0)
            case "groups":
                optimizer["param_groups"] = [3]
            case "group without parameters":
                optimizer["param_groups"][0]["params"] = []
            case "memory":
                objective["memory.slots"] = torch.zeros(1).expand(1 << 40, 2, 16)
            case "no memory":
                del objective["memory.slots"]
            case "pushed":
                objective["memory.pushed"] = torch.tensor(-5)
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    return change


FORGED = ("shape", "dtype", "repeated", "no tensor", "moments", "moments repeated", "moments of another name",
          "step of the optimizer", "unknown parameter", "groups", "group without parameters", "memory", "no memory",
          "pushed")  # fmt: skip


def rewritten(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Callable[[bytes], bytes]:
    """The archive anew, with other records."""

    def write(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, change(name.partition("/")[2], old.read(name)))
        return file.getvalue()

    return write


def pickled(find: bytes, put: bytes) -> Callable[[bytes], bytes]:
    return rewritten(lambda name, record: record.replace(find, put) if name == "data.pkl" else record)


def other_header(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def write(content: bytes) -> bytes:
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[end:]

    return write


DAMAGE = {
    "last.pt": [cut(0), cut(0.5), cut(0.99), lambda c: b"not a zip", other_state(format=99), other_state(epoch=None),
                other_state(objective={}), other_state(optimizer={}), other_state(objective=3),
                *(other_state(epoch=value) for value in (0, -1, 4, 99, 2**63, 2.0, True, "2", torch.tensor(2))),
                *(other_state(step=value) for value in (-1, 5, 2**63, 1.0, "1")),
                other_state(epoch=3, step=1), other_state(settings=3), other_state(settings="[" * 100_000),
                other_state(optimizer=[]), *(forged(way) for way in FORGED),
                rewritten(lambda name, record: record, zipfile.ZIP_DEFLATED),
                rewritten(lambda name, record: record + b"more" if name == "data/1" else record),
                rewritten(lambda name, record: b"big" if name == "byteorder" else record),
                rewritten(lambda name, record: b"(" * 100_000 + b"." if name == "data.pkl" else record),
                rewritten(lambda name, record: b"\x8f\xff\xff\xff\x7f" if name == "data.pkl" else record),
                rewritten(lambda name, record: b"N" + b"r\xff\xff\xff\x7f." if name == "data.pkl" else record),
                pickled(b"FloatStorage", b"DoubleStorage"), pickled(b"epoch", b"epohc")],
    "model.safetensors": [cut(0), cut(0.5), cut(0.99), lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"no tensors",
                          lambda c: b"\xff" * 7 + b"\x7f" + c[8:], lambda c: c + bytes(100),
                          other_header(lambda h: h["quantizer.codebooks"].update(shape=[2, 16, 1 << 40])),
                          other_header(lambda h: h["projection.2.weight"].update(shape=[8, 8.5])),
                          other_header(lambda h: h["projection.2.weight"].update(shape=None)),
                          other_header(lambda h: h["projection.2.weight"].update(dtype="I32")),
                          other_header(lambda h: h["projection.2.weight"].update(dtype="F9")),
                          other_header(lambda h: h.pop("projection.2.weight")),
                          other_header(lambda h: h.update({"more": h["projection.2.weight"]})),
                          other_header(lambda h: h.update({"projection.2.weight": 3})),
                          lambda c: (10**5).to_bytes(8, "little") + b"[" * 10**5],
    "config.json": [lambda c: b"[" * 100_000, lambda c: c + b" " * (1 << 25), edit(epochs=2**63), edit(D=2**70),
                    edit(alpha=float("inf")), edit(alpha=float("nan")), edit(memory_size=2**31 - 1), edit(hidden=2**20),
                    cut(0), cut(0.5), lambda c: b"[]", lambda c: b"{}", lambda c: b"\xff\xfe\x00", edit(format=99),
                    edit(D=16), edit(D=9), edit(M=4), edit(memory_size=21), edit(epochs="2"), edit(optimizer="sgd"),
                    edit(epochs=3), edit(alpha=9.0),
                    edit(train=None), edit(backbone="resnot")],
    "split.json": [cut(0), cut(0.5), lambda c: b"[]", lambda c: b"{}", lambda c: b"[" * 100_000,
                   lambda c: b"\xff\xfe\x00"],
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


def test_a_trained_model_is_not_taken_for_the_initial_one(features: Path, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"last\.pt is missing, and its training was done: restore it, or train anew"):
        train(features, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_without_its_state_an_unfinished_run_begins_again(features: Path, run: Path, whole: Path) -> None:
    (run / "last.pt").unlink()
    train(features, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


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
    with pytest.raises(ValueError, match=r"last.pt is damaged .*it wants to call pathlib"):
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


@pytest.mark.parametrize(
    "file", ["config.json", "last.pt", "metrics.jsonl", "model.safetensors", "split.json", ".lock"]
)
def test_a_pipe_or_a_device_in_a_run_is_refused_without_waiting(file: str, features: Path, run: Path) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (run / file).unlink(missing_ok=True)
        make(run / file)
        with pytest.raises((OSError, ValueError), match=file) as error:
            train(features, run, resume=True)
        assert "\n" not in str(error.value)


def test_a_sparse_file_in_a_run_is_refused_unread(features: Path, run: Path) -> None:
    for name in ("metrics.jsonl", "split.json", "model.safetensors", "config.json"):
        content = (run / name).read_bytes()
        os.truncate(run / name, 10**12)
        with pytest.raises(ValueError, match=name):
            train(features, run, resume=True)
        (run / name).write_bytes(content)
    train(features, run, resume=True)


@pytest.mark.parametrize("line", ['{"epoch": 1, "step": "x"}', '{"epoch": 9223372036854775808}', "[" * 100_000])
def test_a_strange_record_does_not_stop_a_run(line: str, features: Path, run: Path, whole: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    train(features, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_no_epoch_beyond_the_last_makes_a_model_trained(run: Path) -> None:
    path = run / "last.pt"
    path.write_bytes(other_state(epoch=99)(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.pt is damaged .*no place in a training of 2 epochs"):
        RunFolder(run).load_trained()


def test_records_that_share_their_place_are_refused(run: Path) -> None:
    path = run / "last.pt"
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.filelist, key=lambda member: member.file_size)
        for i in range(10):
            again = copy.copy(largest)
            again.filename = f"archive/data/{1000 + i}"
            archive.filelist.append(again)
        archive.writestr("archive/more", b"")  # so that the directory is written anew
    with pytest.raises(ValueError, match=r"last\.pt is damaged .*its members overlap"):
        RunFolder(run).next_epoch()
