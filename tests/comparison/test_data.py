"""The data of a comparison: who trains on what, what is held out, and whose features they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig, train
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.comparison import data as comparison_data
from mecoq_faiss.comparison.data import load_data, of_model, recorded_training
from mecoq_faiss.data.sources import open_source

MODEL = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)


def test_held_out_items_train_no_baseline_of_the_choice(digits_run: Path) -> None:
    model = load_encoder(digits_run).model
    data = load_data(digits_run, model, None, "digits", "digits", 100, items=10**6, workers=0, device="cpu")
    held = {row.tobytes() for row in data.xb[data.held]}
    assert len(data.xt) == 1500 and len(data.xt_choice) == 1000
    assert not held & {row.tobytes() for row in data.xt_choice}
    queries = {row.tobytes() for row in data.task.xq}
    assert not queries & {row.tobytes() for row in data.xt}


@pytest.mark.parametrize(("items", "k"), [(400, 400), (1500, 1000)])
def test_the_cut_off_fits_a_small_database(items: int, k: int, digits_run: Path) -> None:
    model = load_encoder(digits_run, "cpu").model
    data = load_data(digits_run, model, None, "digits", "digits", None, items=items, workers=0, device="cpu")
    assert data.task.k == k and data.description["num_items"] == items


def test_training_data_that_are_gone_or_changed_are_replaced(digits_run: Path, tmp_path: Path) -> None:
    source, note = recorded_training(digits_run)
    assert source is not None and len(source) == 1500 and "1500" in note
    copy = tmp_path / "run"
    shutil.copytree(digits_run, copy)
    split = json.loads((copy / "split.json").read_text())
    (copy / "split.json").write_text(json.dumps(split | {"fingerprint": "x"}))
    assert recorded_training(copy) == (
        None,
        "digits has changed since; baselines are trained on a sample of the database",
    )
    (copy / "split.json").unlink()
    assert recorded_training(copy)[0] is None
    data = load_data(
        copy, load_encoder(copy).model, None, "digits", "digits", 100, items=10**6, workers=0, device="cpu"
    )
    assert len(data.held) == 500 and len(data.xt) == 1000  # the rest of the database


def test_a_model_is_judged_on_its_own_backbones_features(photos: Path, tmp_path: Path, weights: Path) -> None:
    """The data of one run, asked for another's model, are the data of that other one; a frozen backbone's are kept."""
    model = ModelConfig(
        backbone="shufflenet_v2_x0_5", weights=str(weights), trainable_layers=2, image_size=32, M=2, D=16, hidden=32
    )
    tasks = []
    for seed in (0, 1):
        config = TrainConfig(epochs=1, batch_size=60, seed=seed, backbone_lr_scale=10.0)
        trained = train(photos, tmp_path / str(seed), model, config)
        folder = tmp_path / str(seed)
        tasks.append(load_data(folder, trained, config, photos, photos, 50, items=10**6, workers=0, device="cpu"))
    xb, task = of_model(tasks[0], trained, config, workers=0, device="cpu")
    np.testing.assert_array_equal(xb, tasks[1].xb)
    for field in ("xq", "views", "neighbors"):
        np.testing.assert_array_equal(getattr(task, field), getattr(tasks[1].task, field))
        assert not np.array_equal(getattr(task, field), getattr(tasks[0].task, field)), field
    first = load_encoder(tmp_path / "0").model
    assert of_model(tasks[0], first, config, workers=0, device="cpu") == (tasks[0].xb, tasks[0].task)


def test_copies_are_of_images_that_were_not_trained_on(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """However the folder's name is written; and where too few are left, that is said."""
    config = TrainConfig(epochs=1, batch_size=20, cached_views=2)
    for trained, rows, says in ((25, 105, "was not trained on them"), (60, 130, "was trained on 60 of them")):
        source = open_source(str(photos), "train").subset(np.arange(trained))
        model = train(source, tmp_path / str(trained), MODEL, config)
        monkeypatch.setattr(comparison_data, "recorded_training", lambda run, source=source: (source, ""))
        monkeypatch.chdir(photos)
        data = load_data(
            tmp_path / str(trained), model, config, "../all", "../all", 50, items=10**6, workers=0, device="cpu"
        )
        assert len(data.task.view_rows) == rows and says in data.description["views"]  # type: ignore[arg-type]
        assert trained == 60 or min(data.task.view_rows) >= trained  # type: ignore[type-var,arg-type]
    for name in range(25):  # the same images in another folder
        (tmp_path / "copied").mkdir(exist_ok=True)
        shutil.copy(photos / f"{name:03}.png", tmp_path / "copied" / f"other-{name}.png")
    model = train(tmp_path / "copied", tmp_path / "run", MODEL, config)
    monkeypatch.undo()
    data = load_data(tmp_path / "run", model, config, photos, photos, 50, items=10**6, workers=0, device="cpu")
    assert min(data.task.view_rows) == 25 and min(data.held) >= 25  # type: ignore[type-var,arg-type]


def test_features_without_labels_have_exact_neighbors(tmp_path: Path) -> None:
    """By numpy: inner products of vectors centred on the training rows' mean, and normalised."""
    rng = np.random.default_rng(0)
    xb, xq = rng.normal(size=(300, 12)).astype(np.float32), rng.normal(size=(9, 12)).astype(np.float32)
    np.save(tmp_path / "b.npy", xb)
    np.save(tmp_path / "q.npy", xq)
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=12, D=16, M=2))
    data = load_data(
        tmp_path, model, None, tmp_path / "q.npy", tmp_path / "b.npy", None, items=10**6, workers=0, device="cpu"
    )
    np.testing.assert_array_equal(data.xb, xb)
    np.testing.assert_array_equal(data.task.xq, xq)
    assert len(data.held) == 100 and len(data.xt) == len(data.xt_choice) == 200
    trained = np.setdiff1d(np.arange(300), data.held)
    np.testing.assert_array_equal(data.xt, xb[trained])
    q, b = (x - data.xt.mean(0) for x in (xq, xb))
    similarity = q @ b.T / np.linalg.norm(b, axis=1)
    np.testing.assert_array_equal(data.task.neighbors, np.argsort(-similarity, axis=1)[:, :10])
    assert (data.task.k, data.task.labels_q, data.task.views, data.task.view_rows) == (300, None, None, None)
    assert data.train_source is None and data.train_note.startswith("not found (")
    assert data.description["training_data"] == data.train_note and not data.description["labels"]


def test_a_larger_database_is_cut_to_a_seeded_sample(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=12, D=16, M=2))
    name = tmp_path / "x.npy"
    first, second = (
        load_data(tmp_path, model, None, name, name, 5, items=120, workers=0, device="cpu") for _ in range(2)
    )
    rows = [np.flatnonzero((x == row).all(1))[0] for row in first.xb]
    assert len(rows) == 120 and (np.diff(rows) > 0).all() and rows[-1] >= 120
    np.testing.assert_array_equal(first.xb, second.xb)
    assert first.database.paths == tuple(map(str, rows)) and len(first.queries) == 300


@pytest.mark.parametrize(("n", "k"), [(99, 5), (100, 101), (100, 0)])
def test_too_few_images_or_too_large_a_cut_off(n: int, k: int, tmp_path: Path) -> None:
    name = tmp_path / "x.npy"
    np.save(name, np.ones((n, 12), np.float32))
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=12, D=16, M=2))
    with pytest.raises(ValueError, match=f"k={k} on a database of {n} readable images: give at least 100 images and k"):
        load_data(tmp_path, model, None, name, name, k, items=10**6, workers=0, device="cpu")
