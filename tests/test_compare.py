"""The comparison end to end on digits, on a folder without labels, on features; its verdict; wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import mecoq_faiss.compare as compare_module
from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, train
from mecoq_faiss.backbone import create_backbone
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.compare import _verdict, compare
from mecoq_faiss.comparedata import load_data, recorded_training
from mecoq_faiss.contenders import Contender, baseline_contender, embed_features
from mecoq_faiss.datasets import open_source
from mecoq_faiss.encoder import load_encoder
from mecoq_faiss.fixedfeatures import fixed_features
from mecoq_faiss.measure import Task, difference, file_bytes, quality
from mecoq_faiss.relevance import same_classes
from mecoq_faiss_cli.main import main

MODEL = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)
TRAIN = TrainConfig(epochs=2, batch_size=250, cached_views=2, flip=0.0, grey=0.0, jitter_p=0.0, blur=0.0)
SETTINGS = [
    Baseline("PQ", 2, nbits=4),
    Baseline("PQ", 2, nbits=4, preprocess="centred", metric="IP"),
    Baseline("ITQ", 2),
    Baseline("Flat"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "run"
    train("digits", path, MODEL, TRAIN)
    return path


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return compare(run, "digits", "digits", run.parent / "report", settings=SETTINGS)


def test_the_learned_figures_are_those_of_evaluate(run: Path, report: dict[str, Any]) -> None:
    learned = report["methods"][0]
    expected = evaluate(run, "digits", "digits", k=1000)
    assert learned["label"] == "MeCoQ" and learned["num_bytes"] == 2
    assert learned["score"] == pytest.approx(expected["map"], abs=1e-6)
    assert learned["quality"]["map_all"] == pytest.approx(expected["map_all"], abs=1e-6)


def test_the_report_holds_every_method_and_what_was_chosen(run: Path, report: dict[str, Any]) -> None:
    assert [m["label"] for m in report["methods"]] == ["MeCoQ", "PQ", "ITQ", "Flat"]
    written = json.loads((run.parent / "report" / "report.json").read_text())
    assert written == report
    assert {path.name for path in (run.parent / "report").iterdir()} == {"report.json", "report.html"}
    best = max((row for row in report["choice"] if row["method"] == "PQ"), key=lambda row: row["score"])
    assert report["methods"][1]["setting"] == best["name"]
    for method in report["methods"]:
        assert method["search_ms"] > 0 and method["file_bytes"] > 1500 * min(method["num_bytes"], 2)
        assert "ap" not in method["quality"]
    assert report["environment"]["faiss"] == faiss.__version__
    assert report["data"]["num_items"] == 1500 and report["data"]["held_out"] == 500
    assert report["verdict"].endswith(".") and f"{report['methods'][0]['score']:.3f}" in report["verdict"]


def test_held_out_items_train_no_baseline_of_the_choice(run: Path) -> None:
    model = load_encoder(run).model
    data = load_data(run, model, TRAIN, "digits", "digits", 100, items=10**6, workers=0, device="cpu")
    held = {row.tobytes() for row in data.xb[data.held]}
    assert len(data.xt) == 1500 and len(data.xt_choice) == 1000
    assert not held & {row.tobytes() for row in data.xt_choice}
    queries = {row.tobytes() for row in data.task.xq}
    assert not queries & {row.tobytes() for row in data.xt}


def test_training_data_that_are_gone_or_changed_are_replaced(run: Path, tmp_path: Path) -> None:
    source, note = recorded_training(run)
    assert source is not None and len(source) == 1500 and "1500" in note
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    split = json.loads((copy / "split.json").read_text())
    (copy / "split.json").write_text(json.dumps(split | {"fingerprint": "x"}))
    assert recorded_training(copy) == (
        None,
        "digits has changed since; baselines are trained on a sample of the database",
    )
    (copy / "split.json").unlink()
    assert recorded_training(copy)[0] is None
    data = load_data(
        copy, load_encoder(copy).model, TRAIN, "digits", "digits", 100, items=10**6, workers=0, device="cpu"
    )
    assert len(data.held) == 500 and len(data.xt) == 1000  # the rest of the database


def test_several_seeds_train_and_fit_again(run: Path, tmp_path: Path) -> None:
    report = compare(run, "digits", "digits", tmp_path / "r", 100, seeds=2, settings=SETTINGS[:1])
    learned, pq = report["methods"]
    assert len(set(learned["scores"])) == 2 and len(pq["scores"]) == 2
    assert learned["score"] == pytest.approx(np.mean(learned["scores"]))
    assert learned["deviation"] == pytest.approx(np.std(learned["scores"], ddof=1))
    train("digits", tmp_path / "again", MODEL, TrainConfig(**{**TRAIN.__dict__, "seed": 1}))
    again = evaluate(tmp_path / "again", "digits", "digits", k=100)["map"]
    assert learned["scores"][1] == pytest.approx(again, abs=1e-6)


def test_a_bundle_and_a_sample_of_the_database(run: Path, tmp_path: Path) -> None:
    export_index(run, "digits", tmp_path / "bundle")
    report = compare(tmp_path / "bundle", "digits", "digits", tmp_path / "r", 50, items=400, settings=SETTINGS[:1])
    assert report["data"]["num_items"] == 400 and report["train"] is None
    with pytest.raises(ValueError, match="--seeds 2 trains again"):
        compare(tmp_path / "bundle", "digits", "digits", tmp_path / "x", 50, seeds=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures that differ, without classes."""
    folder = tmp_path_factory.mktemp("photos") / "all"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(130):
        small = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        small.resize((24, 24), Image.Resampling.BILINEAR).save(folder / f"{i:03}.png")
    return folder


def test_without_labels_altered_copies_and_neighbours_decide(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "run", MODEL, TrainConfig(epochs=2, batch_size=60, cached_views=2))
    report = compare(tmp_path / "run", photos, photos, tmp_path / "r", 50, settings=SETTINGS)
    assert report["key"] == "same_image" and not report["data"]["labels"]
    flat = next(m for m in report["methods"] if m["label"] == "Flat")
    at = [flat["quality"]["same_image_at"][str(n)] for n in (1, 5, 10, 50)]
    assert at == sorted(at) and at[2] == flat["score"] > 0.3
    assert 0 < report["methods"][0]["quality"]["neighbours"] <= 1


def test_features_without_labels_are_compared_by_neighbours(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = x
    train(tmp_path / "x.h5", tmp_path / "run", ModelConfig(M=2, D=16, hidden=32), TrainConfig(epochs=1, batch_size=100))
    flat = Baseline("Flat", preprocess="centred+normalised", metric="IP")
    report = compare(
        tmp_path / "run", tmp_path / "x.h5", tmp_path / "x.h5", tmp_path / "r", 50, settings=[*SETTINGS, flat]
    )
    assert report["key"] == "neighbours"
    assert report["methods"][-1]["score"] == pytest.approx(1.0)
    assert "no pictures" in (tmp_path / "r" / "report.html").read_text()


def test_refusals(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another --out"):
        compare(run, "digits", "digits", tmp_path / "there")
    with pytest.raises(ValueError, match="k=1501"):
        compare(run, "digits", "digits", tmp_path / "r", 1501)
    with pytest.raises(ValueError, match="seeds=0"):
        compare(run, "digits", "digits", tmp_path / "r", seeds=0)
    monkeypatch.setattr(compare_module, "choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compare(run, "digits", "digits", tmp_path / "r", settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["there"], "a stopped comparison leaves nothing"


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "grid", lambda num_bytes, dim: SETTINGS)
    arguments = ["compare", str(run), "--queries", "digits", "--database", "digits", "-k", "100"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "a")])
    assert result.exit_code == 0, result.output
    verdict = json.loads((tmp_path / "a" / "report.json").read_text())["verdict"]
    assert verdict in result.stdout and "MAP@100" in result.stdout
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    assert json.loads(result.stdout)["data"]["k"] == 100
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b")])
    assert result.exit_code == 1 and "exists" in result.stderr


def entry(label: str, score: float, ap: list[float] | None = None, num_bytes: int = 4) -> dict[str, Any]:
    quality = {} if ap is None else {"ap": np.array(ap)}
    return {
        "label": label, "setting": f"{label} setting", "num_bytes": num_bytes, "score": score, "scores": [score],
        "deviation": None, "quality": quality,
    }  # fmt: skip


def task(k: int = 10) -> Task:
    labels = np.zeros(4, np.int64)
    return Task(np.zeros((4, 2)), labels, labels, None, None, None, k)


@pytest.mark.parametrize(
    ("learned", "pq", "winner", "begins"),
    [
        ([0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.6], "MeCoQ", "Use the learned codes: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.6, 0.7, 0.8], "PQ", "Use PQ setting, without learning: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.4, 0.5, 0.7], None, "No clear winner, keep what you have: "),
    ],
)
def test_verdicts(learned: list[float], pq: list[float], winner: str | None, begins: str) -> None:
    methods = [entry("MeCoQ", np.mean(learned), learned), entry("PQ", np.mean(pq), pq), entry("Flat", 0.99, pq, 64)]
    verdict = _verdict(methods, task(), 4)
    assert verdict["winner"] == winner and verdict["verdict"].startswith(begins)
    assert "4 bytes a vector" in verdict["verdict"], "Flat is larger, and no rival"


def test_paired_difference_by_hand() -> None:
    mean, half = difference(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.7, 0.5]))
    assert mean == pytest.approx(0.5 / 3)
    assert half == pytest.approx(1.96 * np.std([0.1, 0.0, 0.4], ddof=1) / np.sqrt(3))


def test_codewords_used_by_hand() -> None:
    codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]], np.uint8)
    used = Contender("x", "x", 2, None, lambda x: x, codes, K=8).codewords_used
    assert used == [{"used": 0.5, "effective": 0.5}, {"used": 0.125, "effective": 0.125}]


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_four_bit_baselines_are_searched_with_fastscan(metric: Any) -> None:
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    fitted = Baseline("PQ", 4, nbits=4, preprocess="centred", metric=metric).fit(x)
    contender = baseline_contender(fitted, x)
    assert isinstance(faiss.downcast_index(contender.index.index), faiss.IndexPQFastScan)
    exact = fitted.search(fitted.index(x), x, 20)[1]
    found = contender.index.search(x, 20)[1]
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact, found, strict=True)]) > 0.9
    assert contender.codes is not None and contender.codes.shape == (400, 8) and contender.codes.max() < 16
    assert file_bytes(contender) >= 400 * 4


def test_fixed_features_are_the_backbones_and_are_kept(tmp_path: Path, photos: Path, caplog: Any) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "005.png").write_bytes(b"no picture")
    backbone = create_backbone("pixels", "none", image_size=8)
    source = open_source(folder, "database")
    features, rows = fixed_features(source, backbone, size=8, workers=0, folder=tmp_path / "cache")
    assert features.shape == (129, 192) and 5 not in rows and len(rows) == 129
    from mecoq_faiss.views import fixed_view, to_float

    view = to_float(fixed_view(source.open(7), 8)[None])  # type: ignore[arg-type]
    np.testing.assert_allclose(features[6], backbone(view)[0].numpy(), atol=1e-6)
    backbone.forward = None  # type: ignore[assignment]
    again, _ = fixed_features(source, backbone, size=8, workers=0, folder=tmp_path / "cache")
    assert np.array_equal(features, again)


def test_embeddings_of_features_are_the_encoders(run: Path) -> None:
    encoder = load_encoder(run)
    source = open_source("digits", "queries")
    features, _ = fixed_features(source, encoder.model.backbone, size=8, workers=0)
    images = [source.open(i) for i in range(5)]  # type: ignore[union-attr]
    np.testing.assert_allclose(embed_features(encoder.model, features[:5]), encoder.encode(images), atol=1e-5)


def test_classes_are_matched_by_name() -> None:
    a, b = same_classes(np.array([0, 1]), ("cat", "dog"), np.array([0, 1, 2]), ("ant", "dog", "cat"))
    assert a.tolist() == [2, 1] and b.tolist() == [0, 1, 2]
    a, _ = same_classes(np.array([0, 1]), ("cat", "eel"), np.array([0]), ("cat",))
    assert a.tolist() == [0, 2], "a class of the queries alone matches nothing"
    with pytest.raises(ValueError, match="share no class name"):
        same_classes(np.array([0]), ("cat",), np.array([0]), ("dog",))


def test_quality_without_labels_by_hand() -> None:
    x = np.eye(16, dtype=np.float32)
    index = faiss.IndexFlatL2(16)
    index.add(x)
    contender = Contender("Flat", "Flat", 64, index, lambda q: q)
    views = np.array([[0.9, 0.1, *[0] * 14], [0, 0.1, 0.9, *[0] * 13]], np.float32)
    found = quality(contender, Task(x[:1], None, None, None, views, np.array([0, 1]), 5))
    assert found["same_image_at"]["1"] == 0.5 and found["same_image_at"]["2"] == 1.0 and found["same_image"] == 1.0
    assert torch.is_inference_mode_enabled() is False
