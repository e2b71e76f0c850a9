"""Figures of held-out items: exact values by loops over all pairs, what is refused, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig, open_source, train
from mecoq_faiss.backbone import feature_cache, registry
from mecoq_faiss.runtime import progress
from mecoq_faiss.training import validation as module
from mecoq_faiss.training.validation import Validation
from mecoq_faiss_cli.main import main

FEATURES = ModelConfig(backbone="features", weights="none", feature_dim=12, hidden=64, D=32, M=8)
PIXELS = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=64, D=32, M=8)
NETWORK = ModelConfig(backbone="learning", trainable_layers=2, image_size=16, hidden=64, D=32, M=8)
TRAIN = TrainConfig(epochs=2, batch_size=10, cached_views=2, workers=0)


class Network(nn.Module):
    """What differs between training and evaluation: a batch norm, and dropout."""

    feature_dim = 24

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(200, 24)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture(autouse=True)
def a_network_that_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_builds", {"learning": Network})


def model_of(config: ModelConfig) -> MeCoQ:
    torch.manual_seed(0)
    return MeCoQ(config).train()


def fitted(model: MeCoQ, x: torch.Tensor) -> torch.Tensor:
    """Features of x in eval mode, to which the model is fitted as before a training."""
    model.eval()
    with torch.no_grad():
        features = model.features(x)
    model.standardize.fit(features)  # type: ignore[operator]
    model.train()
    return features


def feature_file(path: Path, n: int = 60, labels: Any = None, seed: int = 0, width: int = 12) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(seed).normal(3, 1, size=(n, width)).astype(np.float32)
        if labels is not None:
            file["labels"] = labels
    return path


def photos(folder: Path, n: int = 24, seed: int = 0) -> Path:
    for i in range(n):
        (folder / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng((seed, i)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 3}" / f"{i}.png")
    return folder


def rankings(model: MeCoQ, features: torch.Tensor) -> list[list[int]]:
    """The others of each item, best first, by Eq. 15-17 in float64."""
    model.eval()
    with torch.no_grad():
        z = model.embed(features).double().numpy()
        C = model.quantizer.codebooks.double().numpy()
    M, _, d = C.shape
    x = z.reshape(len(z), M, d)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    codes = [[int(np.argmax(C[m] @ item[m])) for m in range(M)] for item in x]
    assert len({tuple(code) for code in codes}) == len(codes)  # no scores tie, so that a ranking is one
    model.train()
    ranked = []
    for i, query in enumerate(x):
        score = {j: sum(query[m] @ C[m, codes[j][m]] for m in range(M)) for j in range(len(x)) if j != i}
        ranked.append(sorted(score, key=lambda j, score=score: -score[j]))  # type: ignore[misc]
    return ranked


def by_labels(ranked: list[list[int]], share: Any, k: int) -> dict[str, float]:
    """`share(i, j)`: whether two items share a label."""
    terms, first = [], []
    for i, others in enumerate(ranked):
        hits = [share(i, j) for j in others]
        precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(min(k, len(hits))) if hits[r]]
        terms.append(sum(precisions) / max(1, len(precisions)))
        first.append(hits[0])
    return {"validation_map": float(np.mean(terms)), "validation_precision_1": float(np.mean(first))}


@pytest.mark.parametrize("k", [1000, 7])
@pytest.mark.parametrize("several", [False, True])
def test_map_and_precision_by_loops(k: int, several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "K_MAP", k)
    monkeypatch.setattr(module, "MOST_CELLS", 60 * 13)  # parts that do not divide
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (60, 5)) if several else rng.integers(0, 4, 60)
    source, model = open_source(feature_file(tmp_path / "x.h5", labels=labels), "queries"), model_of(FEATURES)
    features = fitted(model, torch.from_numpy(source.vectors(slice(None))))  # type: ignore[union-attr]
    found, ranked = Validation(source, model, TRAIN).measure(), rankings(model, features)
    expected = by_labels(
        ranked, lambda i, j: bool((labels[i] & labels[j]).any() if several else labels[i] == labels[j]), k
    )
    assert found == pytest.approx(expected, abs=1e-12) and 0.2 < found["validation_map"] < 1


def test_recall_of_neighbors_by_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 60 * 13)
    source, model = open_source(feature_file(tmp_path / "x.h5"), "queries"), model_of(FEATURES)
    x = source.vectors(slice(None))  # type: ignore[union-attr]
    fitted(model, torch.from_numpy(x))
    found = Validation(source, model, TRAIN).measure()
    y = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    shares = []
    for i, others in enumerate(rankings(model, torch.from_numpy(x))):
        cosine = {j: y[i] @ y[j] / np.linalg.norm(y[i]) / np.linalg.norm(y[j]) for j in others}
        nearest = sorted(others, key=lambda j, cosine=cosine: -cosine[j])[:10]  # type: ignore[misc]
        shares.append(len(set(nearest) & set(others[:10])) / 10)
    assert found == {"validation_recall_10": pytest.approx(np.mean(shares), abs=1e-12)}
    assert 0.2 < np.mean(shares) < 1


def test_items_of_one_code_count_as_in_a_random_order(tmp_path: Path) -> None:
    """Of 30 items with equal scores, 10 of class 0: the first of the 29 others is of the query's class by chance."""
    labels = np.repeat([0, 1], [10, 20])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"], file["labels"] = np.ones((30, 12), np.float32), labels
    source, model = open_source(tmp_path / "x.h5", "queries"), model_of(FEATURES)
    found = Validation(source, model, TRAIN).measure()
    assert found["validation_precision_1"] == pytest.approx((10 * 9 / 29 + 20 * 19 / 29) / 30)
    found = Validation(replace(source, labels=None), model, TRAIN).measure()  # type: ignore[type-var]
    assert found == {"validation_recall_10": pytest.approx(10 / 29)}


@pytest.mark.parametrize("config", [PIXELS, NETWORK], ids=["frozen", "learning"])
def test_images_that_can_be_read_in_eval_mode(config: ModelConfig, tmp_path: Path) -> None:
    source, model = open_source(photos(tmp_path / "photos", 26), "queries"), model_of(config)
    broken = [4, 17]
    for i in broken:
        (tmp_path / "photos" / source.paths[i]).write_bytes(b"broken")
    rows = [i for i in range(26) if i not in broken]
    size = config.image_size
    resized = [source.open(i).resize((size, size), Image.Resampling.BICUBIC) for i in rows]  # type: ignore[union-attr]
    images = torch.stack([torch.from_numpy(np.array(image)) for image in resized]).permute(0, 3, 1, 2) / 255
    features = fitted(model, images)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    random_state = torch.get_rng_state()
    found = Validation(source, model, TRAIN).measure()
    assert [part.training for part in model.modules()] == modes and torch.equal(torch.get_rng_state(), random_state)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    labels = source.labels[rows]  # type: ignore[index]
    expected = by_labels(rankings(model, features), lambda i, j: labels[i] == labels[j], 1000)
    assert found == pytest.approx(expected, abs=1e-9)


def test_features_of_a_frozen_backbone_are_computed_once_and_others_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(photos(tmp_path / "photos"), "queries")
    monkeypatch.setattr(feature_cache, "cache_folder", lambda: tmp_path / "cache")
    for config, calls, files in ((NETWORK, 3, 0), (PIXELS, 1, 1)):
        model, images = model_of(config), list[int]()
        model.backbone.net.register_forward_hook(lambda net, x, y, images=images: images.append(len(y)))  # type: ignore[misc]
        validation = Validation(source, model, TRAIN)
        assert validation.measure() == validation.measure()
        assert sum(images) == calls * 24 and len(list(tmp_path.glob("cache/*.h5"))) == files


def test_a_seeded_choice_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 25)
    source, model = open_source(feature_file(tmp_path / "x.h5"), "queries"), model_of(FEATURES)
    chosen = [Validation(source, model, replace(TRAIN, seed=seed)).source.paths for seed in (3, 3, 4)]
    expected = sorted(np.random.default_rng(3).permutation(60)[:25].tolist())
    assert [int(path) for path in chosen[0]] == expected and chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize(
    ("epochs", "measured"), [(1, [1]), (3, [1, 2, 3]), (25, [*range(2, 26, 2), 25]), (40, [*range(4, 41, 4)])]
)
def test_the_epochs_after_which_it_measures(epochs: int, measured: list[int], tmp_path: Path) -> None:
    source = open_source(feature_file(tmp_path / "x.h5", 20), "queries")
    validation = Validation(source, model_of(FEATURES), replace(TRAIN, epochs=epochs))
    assert [epoch for epoch in range(1, epochs + 1) if validation.after_epoch(epoch)] == measured


def records(run: Path) -> list[dict[str, Any]]:
    """Those of the epochs."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if "step" not in record]


@pytest.mark.parametrize("config", [PIXELS, NETWORK], ids=["frozen", "learning"])
def test_training_ends_in_the_same_bytes_and_logs_the_figures_of_its_model(config: ModelConfig, tmp_path: Path) -> None:
    data, held_out = photos(tmp_path / "photos"), photos(tmp_path / "held-out", 21, seed=1)
    settings = replace(TRAIN, codebook_init="data")
    train(data, tmp_path / "without", config, settings)
    model = train(data, tmp_path / "with", config, settings, validation=held_out)
    for name in ("model.safetensors", "last.pt", "config.json", "split.json"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name
    logged = [{k: v for k, v in r.items() if k.startswith("validation")} for r in records(tmp_path / "with")]
    assert [r.keys() for r in logged] == [{"validation_map", "validation_precision_1"}] * 2
    assert logged[-1] == Validation(open_source(held_out, "queries"), model, settings).measure()
    assert not any(k.startswith("validation") for r in records(tmp_path / "without") for k in r)


def test_a_resumed_training_logs_what_the_whole_one_does(tmp_path: Path) -> None:
    data, held_out = photos(tmp_path / "photos"), photos(tmp_path / "held-out", 21, seed=1)
    settings = replace(TRAIN, epochs=21)  # measured after epochs 2, 4, ..., 20 and 21
    train(data, tmp_path / "whole", PIXELS, settings, validation=held_out)

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 4:
            raise LookupError

    with pytest.raises(LookupError):
        train(data, tmp_path / "run", PIXELS, settings, validation=held_out, callback=stop)
    train(data, tmp_path / "run", resume=True, validation=held_out)
    logged = [[(r["epoch"], r.get("validation_map")) for r in records(tmp_path / run)] for run in ("run", "whole")]
    assert logged[0] == logged[1]
    assert [epoch for epoch, figure in logged[0] if figure is not None] == [*range(2, 21, 2), 21]


def test_the_command_takes_the_queries_of_a_protocol_and_shows_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    call = ["train", "--data", "digits", "--validation", "digits", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*call, "--epochs", "2", "--views", "2", "--workers", "0"])
    assert done.exit_code == 0, done.output
    first, last = records(tmp_path / "run")
    assert 0.2 < first["validation_map"] < last["validation_map"] < 1  # by chance it would be 0.1
    shown = [line for line in done.stderr.splitlines() if "training: 2 of 2" in line]
    assert len(shown) == 1 and shown[0].endswith(f", validation MAP {last['validation_map']:.1%}")


def test_what_does_not_fit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    images, data = photos(tmp_path / "photos"), feature_file(tmp_path / "x.h5")
    few, narrow = feature_file(tmp_path / "few.h5", 19, seed=1), feature_file(tmp_path / "narrow.h5", width=11)
    with h5py.File(feature_file(tmp_path / "nan.h5", seed=2), "r+") as file:
        file["features"][30, 0] = np.nan
    for source, held_out, message in (
        (data, images, r"photos holds images, and .*x\.h5, which is trained on, features: give validation of the same"),
        (images, data, r"x\.h5 holds features, and .*photos, which is trained on, images: give"),
        (data, few, r"few\.h5 holds 19 items, too few for validation: give at least 20"),
        (data, narrow, r"narrow\.h5 holds features of width 11, .*x\.h5 of 12"),
        (data, tmp_path / "nan.h5", r"nan\.h5: row 30 .* has NaN"),
        (data, data, r"x\.h5 is what is trained on: give items for validation that are not"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            train(source, tmp_path / "run", PIXELS, TRAIN, validation=held_out)
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", [PIXELS, NETWORK], ids=["frozen", "learning"])
def test_too_few_readable_images_are_refused_before_the_first_step(config: ModelConfig, tmp_path: Path) -> None:
    held_out = photos(tmp_path / "held-out", 20, seed=1)
    (held_out / "class0" / "3.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"held-out holds 19 readable items, too few for validation"):
        train(photos(tmp_path / "photos"), tmp_path / "run", config, TRAIN, validation=held_out)
    assert not (tmp_path / "run").exists()


def test_additive_codes_count_from_the_epoch_that_fits_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "held.npy", x + 0.01)
    model = train(
        tmp_path / "x.npy", tmp_path / "run", replace(FEATURES, M=2, codes="additive"), TRAIN,
        validation=tmp_path / "held.npy",
    )  # fmt: skip
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    found = [record["validation_recall_10"] for record in lines if "validation_recall_10" in record]
    held = open_source(tmp_path / "held.npy", "queries")
    assert len(found) == 2 and found[1] == Validation(held, model, TRAIN).measure()["validation_recall_10"]
