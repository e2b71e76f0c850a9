"""The comparison end to end on digits, on a folder without labels, on features; wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest
from PIL import Image

import mecoq_faiss.jobs.compare as compare_module
from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, train
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.baselines import QUICK_ROUNDS, ROUNDS, Baseline
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.evaluation import is_relevant, precision_at
from mecoq_faiss.index import build_index
from mecoq_faiss.jobs.compare import compare
from mecoq_faiss.training.run_folder import RunFolder

MODEL = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)
SETTINGS = [
    Baseline("PQ", 2, nbits=4),
    Baseline("PQ", 2, nbits=4, preprocess="centred", metric="IP"),
    Baseline("ITQ", 2),
    Baseline("Flat"),
]


@pytest.fixture(scope="module")
def report(digits_run: Path) -> dict[str, Any]:
    return compare(digits_run, "digits", "digits", digits_run.parent / "report", settings=SETTINGS)


def test_the_learned_figures_are_those_of_evaluate(digits_run: Path, report: dict[str, Any]) -> None:
    learned = report["methods"][0]
    expected = evaluate(digits_run, "digits", "digits", k=1000)
    assert learned["label"] == "MeCoQ" and learned["num_bytes"] == 2
    assert learned["score"] == pytest.approx(expected["map"], abs=1e-6)
    for key in ("map_all", "precision_at_1", "precision_at_10", "precision_at_100"):
        assert learned["quality"][key] == pytest.approx(expected[key], abs=1e-6)
    encoder = load_encoder(digits_run)
    database, queries = open_source("digits", "database"), open_source("digits", "queries")
    books = encoder.model.quantizer.unit_codebooks().detach().numpy()
    z = encoder.encode([database.open(i) for i in range(len(database))])  # type: ignore[union-attr]
    index = build_index(books, encoder.codes(z))
    xq = encoder.encode([queries.open(i) for i in range(len(queries))])  # type: ignore[union-attr]
    D, I = index.search(xq, 1500)
    at = precision_at(is_relevant(queries.labels, database.labels, I), [1, 10, 100], scores=D)  # type: ignore[arg-type]
    np.testing.assert_allclose([expected[f"precision_at_{n}"] for n in (1, 10, 100)], at, atol=1e-3)
    assert "precision_at_100" not in evaluate(digits_run, "digits", "digits", k=50)


def test_the_report_holds_every_method_and_what_was_chosen(digits_run: Path, report: dict[str, Any]) -> None:
    assert [m["label"] for m in report["methods"]] == ["MeCoQ", "PQ", "ITQ", "Flat"]
    written = json.loads((digits_run.parent / "report" / "report.json").read_text())
    assert written == report
    assert {path.name for path in (digits_run.parent / "report").iterdir()} == {"report.json", "report.html"}
    best = max((row for row in report["choice"] if row["method"] == "PQ"), key=lambda row: row["score"])
    assert report["methods"][1]["setting"] == best["name"]
    for method in report["methods"]:
        assert method["search_ms"] > 0 and method["file_bytes"] > 1500 * min(method["num_bytes"], 2)
        assert "per_query" not in method and "per_query" not in method["quality"]
    assert report["environment"]["faiss"] == faiss.__version__
    assert report["data"]["num_items"] == 1500 and report["data"]["held_out"] == 500
    assert report["verdict"].endswith(".") and f"{report['methods'][0]['score']:.3f}" in report["verdict"]


def test_exact_neighbors_are_found_by_the_setting_chosen_for_them(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MAP by an index of the one, recall by an index of the other."""
    asked = []
    by_map, keeper = Baseline("PQ", 2, nbits=4), Baseline("PQ", 2, nbits=4, preprocess="centred+normalised")

    def choose_for(goals: Any, *_: Any, **__: Any) -> Any:
        asked.extend(goals)
        return {"map": {"PQ": by_map}, "neighbours": {"PQ": keeper}}, []

    monkeypatch.setattr(compare_module, "choose_for", choose_for)
    report = compare(digits_run, "digits", "digits", tmp_path / "r", 100, settings=[by_map])
    backbone = load_encoder(digits_run).model.backbone
    database, queries = (
        fixed_features(open_source("digits", split), backbone, size=8, workers=0)[0]
        for split in ("database", "queries")
    )
    exact = Baseline("Flat", preprocess="centred+normalised", metric="IP").fit(database)
    neighbors = exact.search(exact.index(database), queries, 10)[1]
    fitted = keeper.fit(database, 0)
    found = fitted.search(fitted.index(database), queries, 100)[1]
    pq = report["methods"][1]
    for key, k in (("neighbours", 10), ("neighbours_at_100", 100)):
        shared = [len(set(a) & set(b[:k])) / 10 for a, b in zip(neighbors, found, strict=True)]
        assert pq["quality"][key] == pytest.approx(np.mean(shared), abs=0.02), "but for ties and FastScan's rounding"
    assert (pq["setting"], pq["neighbours_setting"]) == (by_map.name, keeper.name) and asked == ["map", "neighbours"]
    assert report["comparisons"]["map"]["rival"] == by_map.name
    assert report["comparisons"]["neighbours"]["rival"] == keeper.name
    assert report["comparisons"]["neighbours"]["best"] == pytest.approx(pq["quality"]["neighbours"])


@pytest.mark.parametrize("quick", [False, True])
def test_quick_is_a_smaller_grid_in_fewer_rounds(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    asked: dict[str, Any] = {}
    choose_for = compare_module.choose_for

    def grid(num_bytes: int, dim: int, *, quick: bool, metric: str) -> list[Baseline]:
        asked.update(num_bytes=num_bytes, dim=dim, quick=quick, metric=metric)
        return SETTINGS[:1]

    def spied(*arguments: Any, **named: Any) -> Any:
        asked.update(named)
        return choose_for(*arguments, **named)

    monkeypatch.setattr(compare_module, "grid", grid)
    monkeypatch.setattr(compare_module, "choose_for", spied)
    report = compare(digits_run, "digits", "digits", tmp_path / "r", 100, quick=quick)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    assert asked == {"num_bytes": 2, "dim": 192, "quick": quick, "rounds": rounds, "metric": "aqs"}
    assert report["data"]["quick"] is quick and report["choice"][0]["round"] == len(asked["rounds"]) + 1


def test_several_seeds_train_and_fit_again(digits_run: Path, tmp_path: Path) -> None:
    report = compare(digits_run, "digits", "digits", tmp_path / "r", 100, seeds=2, settings=SETTINGS[:1])
    learned, pq = report["methods"]
    assert len(set(learned["scores"])) == 2 and len(pq["scores"]) == 2
    assert learned["score"] == pytest.approx(np.mean(learned["scores"]))
    assert learned["deviation"] == pytest.approx(np.std(learned["scores"], ddof=1))
    model, config = RunFolder(digits_run).read_config()
    train("digits", tmp_path / "again", model, replace(config, seed=1))
    again = evaluate(tmp_path / "again", "digits", "digits", k=100)["map"]
    assert learned["scores"][1] == pytest.approx(again, abs=1e-6)


def test_a_bundle_and_a_sample_of_the_database(digits_run: Path, tmp_path: Path) -> None:
    export_index(digits_run, "digits", tmp_path / "bundle")
    report = compare(tmp_path / "bundle", "digits", "digits", tmp_path / "r", 50, items=400, settings=SETTINGS[:1])
    assert report["data"]["num_items"] == 400 and report["train"] is None
    with pytest.raises(ValueError, match="--seeds 2 trains again, and a bundle has no training settings: give its run"):
        compare(tmp_path / "bundle", "digits", "digits", tmp_path / "x", 50, seeds=2)


def pictures(folder: Path, rng: np.random.Generator, classes: int, each: int) -> None:
    """Smooth pictures of 32 pixels; those of a class are alike."""
    for c in range(classes):
        (folder / str(c)).mkdir(parents=True)
        base = rng.integers(0, 255, (4, 4, 3))
        for i in range(each):
            small = np.clip(base + rng.normal(0, 60, base.shape), 0, 255).astype(np.uint8)
            large = Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR)
            large.save(folder / str(c) / f"{i:03}.png")


@pytest.mark.parametrize("trainable_layers", [0, 2])
def test_further_seeds_start_from_the_runs_weights(tmp_path: Path, weights: Path, trainable_layers: int) -> None:
    rng = np.random.default_rng(0)
    pictures(tmp_path / "database", rng, 3, 60)
    pictures(tmp_path / "queries", rng, 3, 10)
    database, queries = str(tmp_path / "database"), str(tmp_path / "queries")
    model = ModelConfig(
        backbone="shufflenet_v2_x0_5", weights=str(weights), trainable_layers=trainable_layers, image_size=32, M=2,
        D=16, hidden=32,
    )  # fmt: skip
    config = TrainConfig(epochs=2, batch_size=60, cached_views=2, backbone_lr_scale=1.0)
    train(database, tmp_path / "run", model, config)
    train(database, tmp_path / "again", model, replace(config, seed=1))
    report = compare(tmp_path / "run", queries, database, tmp_path / "report", 100, seeds=2, settings=SETTINGS[:1])
    expected = [evaluate(tmp_path / name, queries, database, k=100)["map"] for name in ("run", "again")]
    assert report["methods"][0]["scores"] == pytest.approx(expected, abs=1e-6)
    assert abs(expected[0] - expected[1]) > 1e-4, "equal figures would show nothing"
    assert report["model"]["weights"] == str(weights)
    moved = weights.rename(tmp_path / "moved.pth")
    try:
        with pytest.raises(FileNotFoundError, match=r"weights file .* is gone: put it back, or use one seed"):
            compare(tmp_path / "run", queries, database, tmp_path / "x", 100, seeds=2)
    finally:
        moved.rename(weights)


def test_without_labels_altered_copies_and_neighbors_decide(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "run", MODEL, TrainConfig(epochs=2, batch_size=60, cached_views=2))
    report = compare(tmp_path / "run", photos, photos, tmp_path / "r", 50, settings=SETTINGS)
    assert report["key"] == "same_image" and not report["data"]["labels"]
    flat = next(m for m in report["methods"] if m["label"] == "Flat")
    at = [flat["quality"]["same_image_at"][str(n)] for n in (1, 5, 10, 50)]
    assert at == sorted(at) and at[2] == flat["score"] > 0.3
    learned = report["methods"][0]
    assert 0 < learned["quality"]["neighbours"] <= 1 and learned["quality"]["same_image"] == learned["score"]
    assert report["comparisons"].keys() == {"same_image", "neighbours"}
    assert "trained to find" in report["verdict"] and "uncompressed features" in report["verdict"]
    copies = "altered copies of 130 images of the database; the model was trained on 130 of them, which flatters"
    assert copies in report["data"]["views"]
    assert copies in (tmp_path / "r" / "report.html").read_text()


def test_features_without_labels_are_compared_by_neighbors(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = x
    train(tmp_path / "x.h5", tmp_path / "run", ModelConfig(M=2, D=16, hidden=32), TrainConfig(epochs=1, batch_size=100))
    flat = Baseline("Flat", preprocess="centred+normalised", metric="IP")
    report = compare(
        tmp_path / "run", tmp_path / "x.h5", tmp_path / "x.h5", tmp_path / "r", 50, settings=[*SETTINGS, flat]
    )
    assert report["key"] == "neighbours" and [goal["key"] for goal in report["goals"]] == ["neighbours"]
    assert [line.split(":")[0] for line in report["warnings"]] == [
        "the run learned from 300 images, 1.2 for each of the 256 codewords",
        "the run learned from one feature vector an image, without views of it",
    ]
    assert report["methods"][-1]["score"] == pytest.approx(1.0)
    assert "no pictures" in (tmp_path / "r" / "report.html").read_text()


def test_refusals(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another --out"):
        compare(digits_run, "digits", "digits", tmp_path / "there")
    with pytest.raises(ValueError, match="k=1501"):
        compare(digits_run, "digits", "digits", tmp_path / "r", 1501)
    with pytest.raises(ValueError, match="seeds=0"):
        compare(digits_run, "digits", "digits", tmp_path / "r", seeds=0)
    monkeypatch.setattr(compare_module, "choose_for", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compare(digits_run, "digits", "digits", tmp_path / "r", settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["there"], "a stopped comparison leaves nothing"


def test_several_seeds_need_the_training_data(tmp_path: Path) -> None:
    for name in ("trained", "database"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(len(name)).normal(size=(120, 8)).astype(np.float32))
    train(tmp_path / "trained.npy", tmp_path / "run", ModelConfig(M=2, D=16), TrainConfig(epochs=1, batch_size=50))
    (tmp_path / "trained.npy").unlink()
    database = tmp_path / "database.npy"
    with pytest.raises(ValueError, match="--seeds 2 trains again, and the training data is not at hand: "):
        compare(tmp_path / "run", database, database, tmp_path / "r", 10, seeds=2, settings=SETTINGS[:1])
    assert not (tmp_path / "r").exists()
