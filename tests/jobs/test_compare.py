"""The comparison end to end on digits, on a folder without labels, on features; its verdict; wrong input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image

import mecoq_faiss.jobs.compare as compare_module
from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, train
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.comparison import copies
from mecoq_faiss.comparison import data as comparison_data
from mecoq_faiss.comparison.contenders import Contender, baseline_contender, embed_features
from mecoq_faiss.comparison.data import load_data, of_model, recorded_training
from mecoq_faiss.comparison.figures import Task, file_bytes, quality
from mecoq_faiss.comparison.verdict import interval, verdict
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.evaluation import is_relevant, precision_at
from mecoq_faiss.evaluation.relevance import same_classes
from mecoq_faiss.index import build_index
from mecoq_faiss.jobs.compare import compare
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
    for key in ("map_all", "precision_at_1", "precision_at_10", "precision_at_100"):
        assert learned["quality"][key] == pytest.approx(expected[key], abs=1e-6)
    encoder = load_encoder(run)
    database, queries = open_source("digits", "database"), open_source("digits", "queries")
    books = encoder.model.quantizer.unit_codebooks().detach().numpy()
    z = encoder.encode([database.open(i) for i in range(len(database))])  # type: ignore[union-attr]
    index = build_index(books, encoder.codes(z))
    xq = encoder.encode([queries.open(i) for i in range(len(queries))])  # type: ignore[union-attr]
    D, I = index.search(xq, 1500)
    at = precision_at(is_relevant(queries.labels, database.labels, I), [1, 10, 100], scores=D)  # type: ignore[arg-type]
    np.testing.assert_allclose([expected[f"precision_at_{n}"] for n in (1, 10, 100)], at, atol=1e-3)
    assert "precision_at_100" not in evaluate(run, "digits", "digits", k=50)


def test_the_report_holds_every_method_and_what_was_chosen(run: Path, report: dict[str, Any]) -> None:
    assert [m["label"] for m in report["methods"]] == ["MeCoQ", "PQ", "ITQ", "Flat"]
    written = json.loads((run.parent / "report" / "report.json").read_text())
    assert written == report
    assert {path.name for path in (run.parent / "report").iterdir()} == {"report.json", "report.html"}
    best = max((row for row in report["choice"] if row["method"] == "PQ"), key=lambda row: row["score"])
    assert report["methods"][1]["setting"] == best["name"]
    for method in report["methods"]:
        assert method["search_ms"] > 0 and method["file_bytes"] > 1500 * min(method["num_bytes"], 2)
        assert "per_query" not in method and "per_query" not in method["quality"]
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


@pytest.mark.parametrize(("items", "k"), [(400, 400), (1500, 1000)])
def test_the_cut_off_fits_a_small_database(items: int, k: int, run: Path) -> None:
    model = load_encoder(run, "cpu").model
    data = load_data(run, model, TRAIN, "digits", "digits", None, items=items, workers=0, device="cpu")
    assert data.task.k == k and data.description["num_items"] == items


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


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that are in a file, and nowhere else; its batch norms have seen images."""
    torch.manual_seed(7)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    with torch.no_grad():
        for _ in range(50):
            net(torch.nn.functional.interpolate(torch.randn(32, 3, 4, 4), 32))
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(net.state_dict(), path)
    return path


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
    for field in ("xq", "views", "neighbours"):
        np.testing.assert_array_equal(getattr(task, field), getattr(tasks[1].task, field))
        assert not np.array_equal(getattr(task, field), getattr(tasks[0].task, field)), field
    first = load_encoder(tmp_path / "0").model
    assert of_model(tasks[0], first, config, workers=0, device="cpu") == (tasks[0].xb, tasks[0].task)


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
    learned = report["methods"][0]
    assert 0 < learned["quality"]["neighbours"] <= 1 and learned["quality"]["same_image"] == learned["score"]
    assert report["comparisons"].keys() == {"same_image", "neighbours"}
    assert "trained to find" in report["verdict"] and "uncompressed features" in report["verdict"]
    copies = "altered copies of 130 images of the database; the model was trained on 130 of them, which flatters"
    assert copies in report["data"]["views"]
    assert copies in (tmp_path / "r" / "report.html").read_text()


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
    _, note = copies.choose_rows(1000, None, np.random.default_rng(0))
    assert "500 images" in note and "is not known" in note


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
    head = result.stdout.splitlines()[0].split()
    assert verdict in result.stdout and head[:5] == ["MAP@100", "all", "relevant", "P@1", "P@10"]
    result = CliRunner().invoke(main, ["evaluate", *arguments[1:]])
    printed = {line[:16].strip(): line[16:].strip() for line in result.stdout.splitlines()}
    learned = json.loads((tmp_path / "a" / "report.json").read_text())["methods"][0]["quality"]
    for n in (1, 10, 100):
        assert float(printed[f"precision at {n}"]) == pytest.approx(learned[f"precision_at_{n}"], abs=1e-4)
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    assert json.loads(result.stdout)["data"]["k"] == 100
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b")])
    assert result.exit_code == 1 and "exists" in result.stderr


def entry(label: str, num_bytes: int = 4, **per_query: Any) -> dict[str, Any]:
    seeds = {key: [np.array(values, np.float64)] for key, values in per_query.items()}
    return {"label": label, "setting": f"{label} setting", "num_bytes": num_bytes, "per_query": seeds}


def judge(*methods: dict[str, Any], labels: bool = True) -> dict[str, Any]:
    """The verdict by MAP@1 and precision@1, or without labels."""
    x, y = np.zeros((4, 2)), np.zeros(4, np.int64)
    if labels:
        return verdict(methods, Task(x, y, y, None, None, None, 1), 4)
    return verdict(methods, Task(x, None, None, x, x, y, 1), 4)


def spread(mean: float) -> list[float]:
    """Values of 200 queries."""
    return [mean - 0.1, mean + 0.1] * 100


@pytest.mark.parametrize(
    ("learned", "pq", "winner", "begins"),
    [
        ([0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.6], "MeCoQ", "Use the learned codes: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.6, 0.7, 0.8], "PQ", "Use PQ setting, without learning: "),
        ([0.4, 0.5, 0.6, 0.6], [0.5, 0.4, 0.5, 0.7], None, "No clear winner, keep what you have: "),
    ],
)
def test_verdicts(learned: list[float], pq: list[float], winner: str | None, begins: str) -> None:
    def both(values: list[float]) -> dict[str, Any]:
        return {"map": values, "precision_at_1": values}

    worse = entry("OPQ", **both([0.1] * 4))
    found = judge(entry("MeCoQ", **both(learned)), worse, entry("PQ", **both(pq)), entry("Flat", 64, **both([1.0] * 4)))
    assert found["winner"] == winner and found["verdict"].startswith(begins)
    assert "4 bytes a vector" in found["verdict"], "Flat is larger, and no rival"
    assert found["rival"] == "PQ setting" and found["gain"] == pytest.approx(np.mean(learned) - np.mean(pq))
    low, high = found["interval"]
    assert low <= found["gain"] <= high and f"95 % interval {low:+.3f} to {high:+.3f}" in found["verdict"]
    assert f"precision@1 {np.mean(learned):.3f} and {np.mean(pq):.3f}" in found["verdict"]
    alone = judge(entry("MeCoQ", **both(learned)))
    assert alone["verdict"] == "Nothing of the same size was compared." and alone["winner"] is None


def test_without_labels_a_hair_decides_nothing() -> None:
    """0.9001 against 0.9000 of 10,000 copies: no winner."""
    found, almost = np.ones(10_000), np.ones(10_000)
    found[:999], almost[-1000:] = 0, 0
    nothing: dict[str, Any] = {"neighbours": spread(0.5)}
    learned, pq = entry("MeCoQ", same_image=found, **nothing), entry("PQ", same_image=almost, **nothing)
    verdict = judge(learned, pq, labels=False)
    assert verdict["gain"] == pytest.approx(0.0001) and verdict["winner"] is None
    assert verdict["verdict"].startswith("No clear winner")


def test_map_won_but_the_first_results_lost_is_said_in_the_same_sentence() -> None:
    learned = entry("MeCoQ", map=spread(0.6), precision_at_1=spread(0.5))
    pq = entry("PQ", map=np.add(spread(0.5), [0.01, -0.01] * 100), precision_at_1=[0.55, 0.65] * 100)
    said = judge(learned, pq)
    assert said["winner"] == "MeCoQ" and said["comparisons"]["precision_at_1"]["winner"] == "PQ"
    assert "; precision@1 0.500 and 0.600, and there the learned codes are lower at precision@1" in said["verdict"]
    assert said["verdict"].count(". ") == 0, "one sentence"
    close = entry("PQ", map=spread(0.5), precision_at_1=np.roll(spread(0.51), 1))
    assert "and there" not in judge(learned, close)["verdict"], "within its interval"


@pytest.mark.parametrize(
    ("copies", "neighbours", "winner"),
    [
        (0.1, 0.1, "MeCoQ"), (0.1, 0.0, "MeCoQ"), (0.1, -0.1, None), (0.0, 0.1, None), (0.0, -0.1, None),
        (-0.1, 0.1, None), (-0.1, 0.0, "PQ"), (-0.1, -0.1, "PQ"),
    ],
)  # fmt: skip
def test_where_copies_and_neighbours_disagree_nobody_wins(copies: float, neighbours: float, winner: str | None) -> None:
    pq = entry("PQ", same_image=spread(0.5), neighbours=spread(0.3))
    learned = entry("MeCoQ", same_image=spread(0.5 + copies), neighbours=spread(0.3 + neighbours))
    found = judge(learned, pq, labels=False)
    assert found["winner"] == winner
    assert f"{0.5 + copies:.3f}" in found["verdict"] and f"{0.3 + neighbours:.3f}" in found["verdict"]
    assert "trained to find" in found["verdict"]
    disagree = copies * neighbours < 0
    assert found["verdict"].startswith("No winner, it depends on what similar means in your application") == disagree
    if disagree:
        finder, keeper = ("the learned codes find", "PQ setting keeps") if copies > 0 else (
            "PQ setting finds", "the learned codes keep"
        )  # fmt: skip
        assert f"{finder} altered copies" in found["verdict"]
        assert f"{keeper} the neighbours of the uncompressed features better" in found["verdict"]


def test_each_measure_has_its_own_best_rival() -> None:
    learned = entry("MeCoQ", same_image=spread(0.5), neighbours=spread(0.5))
    pq, opq = entry("PQ", same_image=spread(0.4), neighbours=spread(0.3)), entry("OPQ", same_image=spread(0.3),
        neighbours=spread(0.6))  # fmt: skip
    found = judge(learned, pq, opq, labels=False)
    assert [found["comparisons"][key]["rival"] for key in ("same_image", "neighbours")] == ["PQ setting", "OPQ setting"]
    assert found["winner"] is None and "OPQ setting keeps the neighbours" in found["verdict"]


def test_the_interval_is_that_of_the_queries() -> None:
    """Against the textbook's, for many queries; paired; wider by the spread over seeds; seeded."""
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    a, b = 0.7 * hard + 0.1 * rng.random(2000), 0.7 * hard
    low, high = interval([a], [b])
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(2000)
    assert (low, high) == pytest.approx(((a - b).mean() - half, (a - b).mean() + half), abs=0.1 * half)
    assert (low, high) == interval([a], [b])
    several = interval([a, a + 0.02, a - 0.02], [b, b, b])
    spread = 1.96 * 0.02 / np.sqrt(3)
    assert several[0] == pytest.approx((a - b).mean() - np.hypot(half, spread), rel=0.02)
    assert several[1] == pytest.approx((a - b).mean() + np.hypot(half, spread), rel=0.02)
    assert interval([a[:1]], [b[:1]]) == (-1.0, 1.0), "one query decides nothing"


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
    from mecoq_faiss.data.views import fixed_view, to_float

    assert isinstance(source, ImageSource)
    view = to_float(torch.as_tensor(fixed_view(source.open(7), 8))[None])
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
    np.testing.assert_array_equal(found["per_query"]["same_image"], [1, 1])
    assert found["same_image_at"]["1"] == 0.5 and found["same_image_at"]["2"] == 1.0 and found["same_image"] == 1.0
    assert torch.is_inference_mode_enabled() is False
