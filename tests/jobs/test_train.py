"""Whole training runs: what they learn, and that stopping and resuming changes no byte."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mecoq_faiss import export_index, load_encoder
from mecoq_faiss.backbone import view_cache
from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.jobs.train import train
from mecoq_faiss.runtime import progress as progress_module
from mecoq_faiss.training import num_views, start
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.pairs import CachedPairs
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.trainer import Interrupted, TrainingError

MODEL = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=32, D=16, M=2, nbits=4)
# 47 steps an epoch, the last of 28 images; a memory that the batch does not divide
TRAIN = TrainConfig(epochs=3, batch_size=32, cached_views=3, flip=0.0, memory_size=100, memory_start_epoch=2)
NETWORK = ModelConfig(
    backbone="mobilenet_v3_small", weights="none", trainable_layers=2, image_size=32, hidden=8, D=8, M=2, nbits=4
)
FINE_TUNE = TrainConfig(epochs=2, batch_size=5, memory_size=7, memory_start_epoch=1, workers=0)


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, Any]]:
    """All records without the only figure that two equal runs may differ in."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal in the last of so many steps."""
    step, done = Contrast.after_step, []

    def after_step(self: Contrast) -> None:
        step(self)
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Contrast, "after_step", after_step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on digits."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train("digits", out, MODEL, TRAIN)
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(50, 3, 12)).astype(np.float32))
    return tmp_path / "features.npy"


def test_the_loss_falls_and_metrics_are_whole(whole: Path, tmp_path: Path) -> None:
    """The memory raises the loss as it fills, hence the comparison with a run that sees the same and learns nothing."""
    records = metrics(whole)
    steps = [r for r in records if "step" in r]
    assert [(r["epoch"], r["step"]) for r in steps] == [(e, s) for e in (1, 2, 3) for s in range(1, 48)]
    assert [r["epoch"] for r in records if "step" not in r] == [1, 2, 3]
    train("digits", tmp_path / "frozen", MODEL, replace(TRAIN, lr=1e-20))
    frozen = [r for r in metrics(tmp_path / "frozen") if "step" in r]

    def last_epoch(name: str, of: list[dict[str, Any]]) -> np.floating:
        return np.mean([r[name] for r in of[94:]])

    assert last_epoch("contrastive", steps) < last_epoch("contrastive", frozen) - 0.8  # 3.64 and 4.95 nats
    assert last_epoch("quantization_error", steps) < 0.95 * last_epoch("quantization_error", frozen)  # 0.75 and 0.85
    assert 0.5 < records[-1]["codeword_usage"] <= 1


def test_the_loss_falls_without_a_memory(tmp_path: Path) -> None:
    train("digits", tmp_path / "run", MODEL, replace(TRAIN, memory_size=0))
    loss = [r["loss"] for r in metrics(tmp_path / "run") if "step" in r]
    assert np.mean(loss[-20:]) < 0.9 * np.mean(loss[:5])


def test_the_trained_model(whole: Path) -> None:
    model = RunFolder(whole).load_trained()
    torch.testing.assert_close(model.quantizer.codebooks.norm(dim=-1), torch.ones(2, 16))
    assert not model.training and model.state_dict()["standardize.mean"].any()
    assert RunFolder(whole).read_config() == (MODEL, TRAIN)
    split = json.loads((whole / "split.json").read_text())
    assert split["items"] == len(split["paths"]) == 1500 and split["protocol"]["split"] == "train"


def test_the_seed_decides_every_byte(whole: Path, tmp_path: Path) -> None:
    model = train("digits", tmp_path / "same", MODEL, TRAIN)
    assert weights(tmp_path / "same") == weights(whole) and metrics(tmp_path / "same") == metrics(whole)
    saved = RunFolder(tmp_path / "same").load_trained()
    torch.testing.assert_close(saved.state_dict(), model.state_dict(), rtol=0, atol=0)
    train("digits", tmp_path / "other", MODEL, replace(TRAIN, seed=1))
    assert weights(tmp_path / "other") != weights(whole)


CHILD = """
import os, sys
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss_cli.main import main
step, done = Contrast.after_step, []
def after_step(self):
    step(self)
    done.append(1)
    if len(done) == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
Contrast.after_step = after_step
main(sys.argv[3:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGKILL, -9)])
def test_a_stopped_run_resumes_to_the_same_bytes(number: int, code: int, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**vars(MODEL), **vars(TRAIN)}
    given: tuple[str, ...] = ("hidden=32", "flip=0.0", "memory_size=100", "memory_start_epoch=2")
    given += ("jitter_p=0.7", "gray=0.2", "blur=0.5")  # which digits leave out by default
    options = ["--bits", 8, "--nbits", 4, "--dim", 16, "--views", 3]
    for name in ("backbone", "weights", "image_size", "epochs", "batch_size"):
        options += [f"--{name.replace('_', '-')}", settings[name]]
    options += [part for pair in given for part in ("--set", pair)]
    call = [sys.executable, "-c", CHILD, 47 + 30, int(number), "train", "--data", "digits", "--out", out, *options]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run([str(part) for part in call], capture_output=True, text=True, env=env, timeout=300)
    assert child.returncode == code, child.stderr
    if code == 1:
        assert f"Error: stopped by {signal.Signals(number).name} in epoch 2, step 30" in child.stderr
    assert RunFolder(out).read_config() == (MODEL, TRAIN)
    assert len(metrics(out)) == 48 + (30 if code == 1 else 20)  # a kill leaves records of steps that are lost
    with pytest.raises(ValueError, match=r"unfinished \(epoch 2 of 3\): continue it with --resume"):
        RunFolder(out).load_trained()
    train("digits", out, resume=True)
    assert weights(out) == weights(whole) and metrics(out) == metrics(whole)
    assert (out / "last.pt").read_bytes() == (whole / "last.pt").read_bytes()


@pytest.mark.parametrize(("steps", "micro_batch"), [(1, 0), (2, 0), (3, 0), (3, 4), (4, 0)])
def test_fine_tuning_resumes_to_the_same_bytes(
    steps: int, micro_batch: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(FINE_TUNE, micro_batch=micro_batch)
    train(photos, tmp_path / "whole", NETWORK, config)
    stop_after(monkeypatch, steps)
    with pytest.raises(Interrupted):
        train(photos, tmp_path / "run", NETWORK, config)
    train(photos, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("file", ["model.safetensors", "last.pt"])
def test_killed_while_it_ends(
    epochs: int, file: str, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the initial model nor half a run passes for the trained one."""
    config = TrainConfig(epochs=epochs, batch_size=16)
    train(features, tmp_path / "whole", MODEL, config)
    save = RunFolder.save_state

    def save_state(self: RunFolder, state: dict[str, Any]) -> None:
        if state["epoch"] > epochs and file == "last.pt":
            save(self, state)
        if state["epoch"] > epochs:
            raise SystemExit
        save(self, state)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RunFolder, "save_state", save_state)
        train(features, tmp_path / "run", MODEL, config)
    if file == "model.safetensors":
        with pytest.raises(ValueError, match="unfinished"):
            RunFolder(tmp_path / "run").load_trained()
    train(features, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(whole: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    model = train("digits", whole, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before
    torch.testing.assert_close(model.state_dict(), RunFolder(whole).load_trained().state_dict(), rtol=0, atol=0)


def test_resume_starts_where_there_is_nothing_or_a_killed_start(features: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=16)
    train(features, tmp_path / "a", MODEL, config, resume=True)
    (tmp_path / "b").mkdir()
    for name in ("config.json", "split.json"):  # written before the model
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    (tmp_path / "b" / ".model.safetensors.123.tmp").write_bytes(b"half")
    with pytest.raises(FileExistsError, match="continue it with --resume"):
        train(features, tmp_path / "b", MODEL, config)
    train(features, tmp_path / "b", MODEL, config, resume=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize("name", ["split.json", "metrics.jsonl", ".notes.1.tmp", "last.pt", "config.json"])
def test_files_of_the_users_are_left_alone(name: str, features: Path, tmp_path: Path) -> None:
    """A name of ours proves nothing: only a config.json that training wrote does."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"mine": 1}')
    for resume in (True, False):
        with pytest.raises((FileExistsError, ValueError), match=r"holds other files|exists: choose|config.json is dam"):
            train(features, tmp_path / "run", MODEL, resume=resume)
    assert [(p.name, p.read_text()) for p in (tmp_path / "run").iterdir()] == [(name, '{"mine": 1}')]


def test_a_file_of_the_users_in_a_run_survives_its_resume(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(features, tmp_path / "run", MODEL, TrainConfig(batch_size=16, epochs=1))
    (tmp_path / "run" / ".notes.1.tmp").write_text("mine")
    (tmp_path / "run" / ".last.pt.1.tmp").write_text("half")
    train(features, tmp_path / "run", resume=True)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json", "model.safetensors", "metrics.jsonl", "last.pt", "split.json", ".notes.1.tmp"
    }  # fmt: skip


def test_two_on_one_run_folder(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*args: Any, **options: Any) -> None:
        for resume in (True, False):
            with pytest.raises(OSError, match=rf"in use by process {os.getpid()}|exists: choose another"):
                train(features, tmp_path / "run", MODEL, resume=resume)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["mecoq_faiss.training.fit"], "run_epochs", second)
    with pytest.raises(KeyboardInterrupt):
        train(features, tmp_path / "run", MODEL, TrainConfig(batch_size=16))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("epochs", 200), ("lr", 0.5), ("hidden", 8)])
def test_resume_with_other_settings(
    name: str, value: Any, whole: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is finished, and of one that is not."""
    stop_after(monkeypatch, 2)
    short = replace(TRAIN, batch_size=16, memory_size=0, lr=0.001)
    with pytest.raises(Interrupted):
        train(features, tmp_path / "run", MODEL, short)
    monkeypatch.undo()
    message = rf"^{name}={value} contradicts .*, which was started with {name}=.*: leave {name} out, or train anew"
    for out, data, config in ((whole, "digits", TRAIN), (tmp_path / "run", features, short)):
        model, config = replace(MODEL), replace(config)
        if hasattr(model, name):
            model = replace(model, **{name: value})
        else:
            config = replace(config, **{name: value})
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(ValueError, match=message):
            train(data, out, model, config, resume=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    train(features, tmp_path / "run", MODEL, replace(short, workers=0), resume=True)  # what changes no byte may change
    assert RunFolder(tmp_path / "run").load_trained()


def test_the_random_state_is_the_callers(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]

    config = TrainConfig(epochs=2, batch_size=16, codebook_init="data")
    before = state()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 2)
        train(features, tmp_path / "run", MODEL, config)
    assert state() == before
    train(features, tmp_path / "run", resume=True)
    export_index(tmp_path / "run", features, tmp_path / "bundle")
    load_encoder(tmp_path / "bundle").encode(np.ones((2, 12)))
    assert state() == before


def test_equal_runs_are_equal_in_every_file_but_the_clock(whole: Path, tmp_path: Path) -> None:
    """In another folder, in this process and in another one."""
    code = (
        "import sys; from mecoq_faiss.config import *; from mecoq_faiss.jobs.train import train; "
        f"train('digits', sys.argv[1], {MODEL!r}, {TRAIN!r})"
    )
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "child")], check=True, env=env, timeout=300)
    train("digits", tmp_path / "same", MODEL, TRAIN)
    for other in (tmp_path / "child", tmp_path / "same"):
        for path in whole.iterdir():
            if path.name != "metrics.jsonl":
                assert (other / path.name).read_bytes() == path.read_bytes(), path.name
        assert metrics(other) == metrics(whole)


def test_resume_with_other_data(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(features, tmp_path / "run", MODEL, TrainConfig(batch_size=16))
    np.save(tmp_path / "other.npy", np.ones((50, 3, 12), np.float32))
    with pytest.raises(ValueError, match=r"trained on other data \(.*features.npy\): resume with the same --data"):
        train(tmp_path / "other.npy", tmp_path / "run", resume=True)


def test_broken_features_in_the_middle_keep_the_last_checkpoint(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=3, batch_size=16)
    train(features, tmp_path / "whole", MODEL, config)
    batches = CachedPairs.batches

    def broken(self: CachedPairs, epoch: int, *more: Any) -> Any:
        for number, pair in enumerate(batches(self, epoch, *more)):
            yield pair._replace(view1=pair.view1 * float("nan")) if (epoch, number) == (2, 1) else pair

    with monkeypatch.context() as patch:
        patch.setattr(CachedPairs, "batches", broken)
        with pytest.raises(TrainingError, match="became nan in epoch 2, step 2") as error:
            train(features, tmp_path / "run", MODEL, config)
    assert "\n" not in str(error.value) and f"checkpoint is kept in {tmp_path / 'run'}" in str(error.value)
    assert RunFolder(tmp_path / "run").load_state()["epoch"] == 2
    train(features, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_codebooks_from_data(features: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing, the codewords stay segments of embeddings, again from the start after 48 rows."""
    config = TrainConfig(epochs=1, batch_size=16, lr=1e-20, codebook_init="data", polish_rounds=0)
    model = train(features, tmp_path / "run", replace(MODEL, nbits=8), config)
    with torch.no_grad():
        segments = model.quantizer.segments(model.embed(torch.from_numpy(np.load(features)).flatten(0, 1)))
    nearest = torch.einsum("nmd,mkd->mkn", segments, model.quantizer.codebooks).amax(-1)
    assert nearest.min() > 0.995
    assert len(model.quantizer.codebooks[0].unique(dim=0)) == 256


def test_features_are_standardized_by_the_vectors_that_will_be_encoded(tmp_path: Path) -> None:
    """Not by their dropped-out views, whose variance is larger."""
    x = (1 + 0.1 * np.random.default_rng(0).normal(size=(2000, 8))).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    model = train(tmp_path / "x.npy", tmp_path / "run", MODEL, TrainConfig(epochs=1, batch_size=500))
    with torch.no_grad():
        standard = model.standardize(torch.from_numpy(x))
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(8), atol=1e-3, rtol=0)


def test_codewords_are_drawn_from_the_vectors_that_will_be_encoded(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    given = {"codebook_init": "data", "feature_dropout": 0.5, "polish_rounds": 0}
    config = TrainConfig(epochs=1, batch_size=100, lr=1e-20, **given)  # type: ignore[arg-type]
    model = train(tmp_path / "x.npy", tmp_path / "run", replace(MODEL, nbits=8), config)
    with torch.no_grad():
        segments = model.quantizer.segments(model.embed(torch.from_numpy(x)))
    nearest = torch.einsum("nmd,mkd->mkn", segments, model.quantizer.codebooks).amax(-1)
    assert nearest.min() > 0.995


def test_digits_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    stop_after(monkeypatch, 1)
    with caplog.at_level("INFO", "mecoq_faiss"), pytest.raises(Interrupted):
        train("digits", tmp_path / "run")
    model, settings = RunFolder(tmp_path / "run").read_config()
    assert (model.backbone, model.image_size, settings.flip, settings.jitter_p) == ("pixels", 8, 0, 0)
    assert sum("unless told otherwise" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(("images", "batch"), [(2, 2), (5, 2), (49, 24), (511, 255), (512, 512), (1300, 512)])
def test_the_batch_follows_the_data(images: int, batch: int, tmp_path: Path, caplog: Any) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(images, 12)).astype(np.float32))
    with caplog.at_level("INFO", "mecoq_faiss"):
        train(tmp_path / "x.npy", tmp_path / "run", MODEL, TrainConfig(epochs=1))
    assert RunFolder(tmp_path / "run").read_config()[1] == TrainConfig(epochs=1, batch_size=batch)
    said = [r.message for r in caplog.records if "batch size" in r.message]
    assert said == ([] if batch == 512 else [f"batch size {batch}, half of the images; --batch-size changes it"])


def test_the_batch_follows_the_readable_images(photos: Path, tmp_path: Path) -> None:
    """12 of which 5 can be read: half of 12 would be more than there are."""
    for i in range(7):
        (photos / f"{i:02}.png").write_bytes(b"broken")
    train(photos, tmp_path / "run", MODEL, TrainConfig(epochs=1, cached_views=2, workers=0))
    assert RunFolder(tmp_path / "run").read_config()[1].batch_size == 2


def test_one_image_is_too_few(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 12), np.float32))
    with pytest.raises(ValueError, match=r"1 readable images are fewer than one batch of 2: give more images$"):
        train(tmp_path / "x.npy", tmp_path / "run", MODEL)


def test_chosen_numbers_are_recorded_and_resumed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run measures nothing again, and goes on to the same bytes."""
    rate = 10.0
    monkeypatch.setattr(start, "forward_rate", lambda *a: rate)
    config = TrainConfig(epochs=2, workers=0)
    train(photos, tmp_path / "whole", MODEL, config, budget=6.0)
    assert RunFolder(tmp_path / "whole").read_config()[1] == replace(config, batch_size=6, cached_views=5)
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(photos, tmp_path / "run", MODEL, config, budget=6.0)
    rate = 1000.0
    train(photos, tmp_path / "run", resume=True, budget=6.0)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_the_default_number_of_views_is_recorded(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(num_views, "CPU_OPERATIONS", 5.5 * 12 * 1000)
    monkeypatch.setattr(num_views, "forward_operations", lambda *a: 1000)
    train(photos, tmp_path / "run", MODEL, TrainConfig(epochs=1, workers=0), device=torch.device("cpu"))
    assert RunFolder(tmp_path / "run").read_config()[1].cached_views == 5


def test_a_run_that_did_not_record_its_number_of_views_goes_on_with_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images had 40 views, whatever the backbone."""
    config = TrainConfig(epochs=2, batch_size=6, workers=0)
    train(photos, tmp_path / "whole", MODEL, replace(config, cached_views=40))
    stop_after(monkeypatch, 3)
    monkeypatch.setattr(sys.modules["mecoq_faiss.training.fit"], "chosen", lambda c, source, pairs: c)  # as before
    with pytest.raises(Interrupted):
        train(photos, tmp_path / "run", MODEL, config)
    monkeypatch.setattr(num_views, "forward_operations", lambda *a: 1e30)
    assert RunFolder(tmp_path / "run").read_config()[1].cached_views == 0
    train(photos, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"view_cache": False}, {}])
def test_a_budget_without_a_view_cache_is_refused(
    change: dict[str, Any], features: Path, photos: Path, tmp_path: Path
) -> None:
    source = photos if change else features
    with pytest.raises(ValueError, match="leave --budget out"):
        train(source, tmp_path / "run", MODEL, replace(FINE_TUNE, **change), budget=60.0)
    assert not (tmp_path / "run").exists()


def test_how_long_it_will_take_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(progress_module, "ESTIMATE_SECONDS", 0.0)
    monkeypatch.setattr(view_cache, "FORWARD_IMAGES", 6)
    with caplog.at_level("INFO", "mecoq_faiss"):
        train(photos, tmp_path / "cached", MODEL, replace(FINE_TUNE, cached_views=3))
        (said,) = [r.message for r in caplog.records if "a second" in r.message]
        assert re.fullmatch(
            r"view cache: 36 views, 3 of each image, [\d.e+]+ a second: about \d+ s to go; "
            "--views or --budget changes it",
            said,
        )
        caplog.clear()
        train(photos, tmp_path / "fresh", NETWORK, FINE_TUNE)  # 3 steps of 2 x 5 views an epoch
        (said,) = [r.message for r in caplog.records if "a second" in r.message]
        assert said.startswith("training: 60 views through the network, ") and "epochs" in said.partition(";")[2]
        caplog.clear()
        monkeypatch.setattr(progress_module, "LOG_SECONDS", -1.0)
        train(photos, tmp_path / "again", MODEL, replace(FINE_TUNE, cached_views=3))  # from the cache
        assert not any("a second" in r.message for r in caplog.records)
    lines = [r.message for r in caplog.records if r.message.startswith("training: ")]
    last = [r for r in metrics(tmp_path / "again")][-2:]
    note = f"loss {last[0]['loss']:.3f}, codewords {last[1]['codeword_usage']:.0%}"
    assert len(lines) == 2 and lines[-1] == f"training: 2 of 2 epochs, 0 s left; {note}"


def test_a_run_stopped_in_the_last_step_of_an_epoch_goes_on_to_its_end(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Where no step is left there is no loss to show."""
    config = TrainConfig(epochs=1, batch_size=25)
    train(features, tmp_path / "whole", MODEL, config)
    steps = sum("step" in record for record in metrics(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, steps)
        train(features, tmp_path / "run", MODEL, config)
    monkeypatch.setattr(progress_module, "LOG_SECONDS", -1.0)
    with caplog.at_level("INFO", "mecoq_faiss"):
        train(features, tmp_path / "run", resume=True)
    assert [r.message for r in caplog.records if r.message.startswith("training: ")] == [
        "training: 1 of 1 epochs, 0 s left"
    ]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_codebooks_from_data_of_cached_views(tmp_path: Path) -> None:
    config = replace(TRAIN, epochs=1, lr=1e-20, codebook_init="data")
    model = train("digits", tmp_path / "run", MODEL, config)
    assert model.quantizer.codebooks.isfinite().all()


def test_out_that_cannot_be_used(features: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for resume, message in ((False, "exists: choose another --out"), (True, "holds other files")):
        with pytest.raises(FileExistsError, match=message):
            train(features, tmp_path / "full", MODEL, resume=resume)
        with pytest.raises(FileExistsError, match="is a file"):
            train(features, features, MODEL, resume=resume)
        with pytest.raises(OSError, match="cannot write") as error:
            train(features, features / "run", MODEL, resume=resume)
        assert "\n" not in str(error.value)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def bad_start(name: str, folder: Path, features: Path) -> tuple[Any, ModelConfig, TrainConfig]:
    config = TrainConfig(batch_size=16, workers=0)
    if name == "few":
        return features, MODEL, TrainConfig(batch_size=51)
    if name == "nan":
        np.save(folder / "nan.npy", np.full((50, 12), np.nan, np.float32))
        return folder / "nan.npy", MODEL, config
    if name == "huge":
        np.save(folder / "huge.npy", np.full((50, 12), 3e38, np.float32))
        return folder / "huge.npy", MODEL, config
    if name == "width":
        return features, replace(MODEL, backbone="features", feature_dim=13), config
    if name == "images":
        return "digits", replace(MODEL, backbone="features", feature_dim=12), config
    (folder / "broken").mkdir()
    for i in range(20):
        (folder / "broken" / f"{i}.jpg").write_bytes(b"broken")
    view_cache = name == "unreadable"
    config = replace(config, view_cache=view_cache, preserve_weight=0.0)
    return folder / "broken", replace(MODEL, standardize=name != "unseen"), config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "50 readable images are fewer than one batch of 51"),
        ("nan", "row 0 .* has NaN or infinity"),
        ("huge", "epoch 1, step 1"),
        ("width", "width 12, the model takes 13"),
        ("images", "holds images"),
        ("unreadable", "read"),
        ("fresh", "no image of the training data can be read"),
        ("unseen", "no image of the training data can be read"),
    ],
)
def test_a_failed_start_leaves_no_folder(name: str, message: str, features: Path, tmp_path: Path) -> None:
    source, model, config = bad_start(name, tmp_path, features)
    with pytest.raises((ValueError, TrainingError), match=message) as error:
        train(source, tmp_path / "run", model, config)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists() and "kept" not in str(error.value)


def test_some_unreadable_images_are_left_out(photos: Path, tmp_path: Path) -> None:
    for i in (2, 7):
        (photos / f"{i:02}.png").write_bytes(b"broken")
    train(photos, tmp_path / "fresh", NETWORK, FINE_TUNE)
    train(photos, tmp_path / "cached", MODEL, replace(FINE_TUNE, cached_views=2))
    assert len([r for r in metrics(tmp_path / "cached") if "step" in r]) == 2 * 2  # 10 images in batches of 5


def test_the_callback_sees_each_record_once_it_is_written_and_changes_no_byte(features: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=16)
    train(features, tmp_path / "whole", MODEL, config)
    seen: list[dict[str, Any]] = []

    def callback(record: dict[str, Any]) -> None:
        written = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(written[-1]) == record and len(written) == len(seen) + 1
        seen.append(dict(record))
        record.clear()
        torch.rand(3)

    train(features, tmp_path / "run", MODEL, config, callback=callback)
    assert [(r["epoch"], r.get("step")) for r in seen] == [(e, s) for e in (1, 2) for s in (1, 2, 3, 4, None)]
    assert all("loss" in r if "step" in r else "codeword_usage" in r for r in seen)
    for name in ("model.safetensors", "last.pt", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("place", [(1, 1), (1, None), (2, 3)])
def test_an_exception_in_the_callback_ends_the_training_which_can_go_on(
    place: tuple[int, int | None], features: Path, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=2, batch_size=16)
    train(features, tmp_path / "whole", MODEL, config)

    def callback(record: dict[str, Any]) -> None:
        if (record["epoch"], record.get("step")) == place:
            raise LookupError("enough")

    with pytest.raises(LookupError, match=r"^enough$"):
        train(features, tmp_path / "run", MODEL, config, callback=callback)
    assert RunFolder(tmp_path / "run").load_state()["epoch"] == (2 if place[0] == 2 else 1)  # each epoch is saved
    again: list[int] = []
    train(features, tmp_path / "run", resume=True, callback=lambda record: again.append(record["epoch"]))
    assert again == ([2] * 5 if place[0] == 2 else [1] * 5 + [2] * 5)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_unknown_device(features: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'cuda:99' is not available"):
        train(features, tmp_path / "run", MODEL, device="cuda:99")


def test_what_a_start_left_before_its_settings_were_written_is_removed(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".config.json.123.tmp").touch()
    model = ModelConfig(backbone="features", weights="none", feature_dim=12, D=16, M=2, hidden=16)
    train(tmp_path / "f.npy", tmp_path / "out", model, TrainConfig(epochs=1, batch_size=20), resume=True)
    assert not list((tmp_path / "out").glob(".*"))
