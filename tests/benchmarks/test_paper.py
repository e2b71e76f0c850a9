"""Hashing heads against their equations, training in memory against `train`, resumable cells, whole commands."""

from __future__ import annotations

import json
import math
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper import __main__ as paper
from benchmarks.paper import controls, figures, hashing, pages, recipe, tables
from benchmarks.paper.cells import Cells
from benchmarks.paper.experiment import default_settings, fit, paper_settings
from benchmarks.paper.published import TABLE1, published
from benchmarks.paper.systems import SYSTEMS
from benchmarks.speed.measure import RESULTS
from mecoq_faiss import train
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.config import make_configs


def test_cibhash_loss_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    torch.manual_seed(3)
    loss = hashing.cibhash_loss(logits[0], logits[1], temperature=0.3, beta=0.01).item()

    torch.manual_seed(3)
    p = torch.sigmoid(logits)
    bits = [torch.rand_like(p[view]) < p[view] for view in range(2)]
    codes = [[1 if bit else -1 for bit in row] for view in bits for row in view]
    terms = []
    for i in range(10):
        others = [j for j in range(10) if j != i]
        e = {j: math.exp(sum(a * b for a, b in zip(codes[i], codes[j], strict=True)) / 8 / 0.3) for j in others}
        terms.append(-math.log(e[(i + 5) % 10] / sum(e.values())))
    divergences = []
    for a, b in ((p[0], p[1]), (p[1], p[0])):
        kl = a * torch.log(a / b) + (1 - a) * torch.log((1 - a) / (1 - b))
        divergences.append(kl.sum(1).mean().item())
    assert loss == pytest.approx(np.mean(terms) + 0.01 * np.mean(divergences), abs=1e-12)


def test_bernoulli_divergence_is_that_of_torch_distributions() -> None:
    a, b = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    P, Q = (torch.distributions.Bernoulli(logits=x) for x in (a, b))
    expected = torch.distributions.kl_divergence(P, Q).sum(1).mean()
    torch.testing.assert_close(hashing.bernoulli_kl(a, b), expected)


def test_sampled_bits_follow_their_probabilities_and_pass_their_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([-2.0, 0.0, 1.0]).repeat(40_000, 1).requires_grad_()
    b = hashing.sample(logits)
    assert set(b.unique().tolist()) == {-1.0, 1.0}
    p = torch.sigmoid(torch.tensor([-2.0, 0.0, 1.0]))
    torch.testing.assert_close((b.detach() > 0).float().mean(0), p, atol=0.01, rtol=0)
    b[0].sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], 2 * p * (1 - p))
    assert not logits.grad[1:].any()


def test_bi_half_gives_every_bit_as_often_as_its_opposite() -> None:
    u = torch.randn(10, 7, generator=torch.Generator().manual_seed(0)) + torch.arange(7)  # skewed columns
    b = hashing.bi_half(u, 6.0)
    assert set(b.unique().tolist()) == {-1.0, 1.0} and not b.sum(0).any()
    for column in range(7):
        assert u[b[:, column] > 0, column].min() > u[b[:, column] < 0, column].max()


def test_bi_half_gradient_pulls_the_logits_to_their_bits() -> None:
    u = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    b = hashing.bi_half(u, 6.0)
    b.backward(g)
    torch.testing.assert_close(u.grad, g + 6.0 * (u.detach() - b.detach()) / 18)


def test_greedyhash_sign_passes_the_gradient_unchanged() -> None:
    u = torch.tensor([[-0.3, 0.0, 2.0]], requires_grad=True)
    b = hashing.sign(u)
    assert b.tolist() == [[-1.0, -1.0, 1.0]]
    g = torch.tensor([[0.5, -2.0, 3.0]])
    b.backward(g)
    torch.testing.assert_close(u.grad, g)


def test_similarity_loss_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    codes, x = np.sign(rng.normal(size=(5, 8))), rng.normal(size=(5, 3))

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    gaps = [cosine(codes[i], codes[j]) - cosine(x[i], x[j]) for i in range(5) for j in range(5) if i != j]
    loss = hashing.similarity_loss(torch.from_numpy(codes), torch.from_numpy(x)).item()
    assert loss == pytest.approx(np.mean(np.square(gaps)), abs=1e-12)


def _clusters(n: int, F: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    return (rng.normal(size=(4, F))[labels] + rng.normal(size=(n, F)) / 4).astype(np.float32), labels


@pytest.mark.parametrize("method", hashing.METHODS)
def test_hashing_heads_learn_clusters_and_search_them(method: str) -> None:
    x, labels = _clusters(120)
    views = np.stack([x, x + 0.01, x - 0.01], axis=1)
    head = hashing.fit_hashing(method, views, 16, seed=0, settings={"epochs": 20, "batch_size": 40})
    codes = head.queries(x)
    assert codes.shape == (120, 2) and codes.dtype == np.uint8
    D, I = head.index(x).search(codes, 10)
    bits = np.unpackbits(codes, axis=1).astype(int)
    assert (np.abs(bits[:, None] - bits[I]).sum(2) == D).all()
    assert (labels[I] == labels[:, None]).mean() > 0.9


def test_unknown_hashing_method_is_refused() -> None:
    with pytest.raises(ValueError, match="CIBHash"):
        hashing.HashingHead("DeepBit", 8, 16, {})


def test_training_in_memory_is_that_of_train(tmp_path: Path) -> None:
    x, _ = _clusters(96)
    views = np.stack([x, x + 0.05, x - 0.05], axis=1).astype(np.float16)
    np.save(tmp_path / "views.npy", views)
    settings = default_settings(16, epochs=3, batch_size=32, memory_size=20, memory_start_epoch=2, hidden=8)
    model, epochs = fit(views, settings)
    trained = train(tmp_path / "views.npy", tmp_path / "run", *make_configs(**settings))
    for (name, a), b in zip(model.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert len(epochs) == 3 and {"loss", "codeword_usage", "codeword_similarity"} <= epochs[0].keys()


def test_settings_are_spelt_out_as_they_are_used() -> None:
    """Every number; and cached views also with the paper's settings, whose presets draw fresh ones."""
    default = default_settings(32)
    of_paper = paper_settings(types.SimpleNamespace(name="nuswide"), 32)  # type: ignore[arg-type]
    assert (default["batch_size"], default["view_cache"]) == (512, True)
    assert (of_paper["batch_size"], of_paper["view_cache"], of_paper["temperature"]) == (128, True, 0.4)
    assert "on fresh views every epoch" in pages._setting(
        dict.fromkeys(("train", "queries", "database"), 1)
        | dict.fromkeys(("data", "backbone", "weights", "image_size", "views"), "x")
        | {"environment": dict.fromkeys(("platform", "cores", "torch", "faiss", "simd"), "x")}
    )


def test_a_finished_cell_is_not_computed_again(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"map": 0.5}

    for _ in range(2):
        assert Cells(tmp_path, {"data": "a"}).get("x", {"lr": 1.0}, compute) == {"map": 0.5}
    assert len(calls) == 1
    Cells(tmp_path, {"data": "a"}).get("x", {"lr": 2.0}, compute)
    Cells(tmp_path, {"data": "b"}).get("x", {"lr": 1.0}, compute)
    assert len(calls) == 3, "other settings or data are other cells"


def test_a_failed_cell_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, {}).get("x", {}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not list((tmp_path / "cells").iterdir())


def test_published_figures() -> None:
    assert len(TABLE1) == 25  # 24 baselines and the paper's own
    assert published("cifar10-ii")["MeCoQ (Ours)"] == (62.88, 64.09, 65.07)
    assert published("flickr25k")["CIBHash"] == (77.21, 78.43, 79.5)
    assert published("digits") == {}
    assert pages.HERE.keys() <= {row[0] for row in TABLE1}


def test_table1_shows_precision_beside_map_where_it_was_measured() -> None:
    at = ({"1": 0.61, "10": 0.6, "100": 0.58}, {"1": 0.63, "10": 0.61, "100": 0.5804})
    rows: list[dict[str, Any]] = [
        {"system": "MeCoQ", "bits": 32, "map": 0.54, "setting": "", "precision_at": at[0]},
        {"system": "MeCoQ", "bits": 32, "map": 0.55, "setting": "", "precision_at": at[1]},
        {"system": "PQ", "bits": 32, "map": 0.47, "setting": "PQ 4x8"},
    ]
    content = {"data": "digits", "k": 1000, "bits": [32], "seeds": 2, "rows": rows}
    text = pages._table1(content)
    assert "| MeCoQ | 54.50 ± 0.71 (62.0, 60.5, 58.0) |" in text
    assert "| PQ | 47.00 | PQ 4x8 |" in text
    assert "precision@1, @10, @100 in %" in text
    assert "precision@" not in pages._table1(content | {"rows": rows[2:]})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments of the real shape that take seconds."""
    quick = {"epochs": 2, "batch_size": 256}
    default, of_paper, of_hashing = tables.default_settings, tables.paper_settings, hashing.default_settings
    for module in (tables, figures, recipe):
        monkeypatch.setattr(module, "default_settings", lambda bits, nbits=8, **c: default(bits, nbits, **quick | c))
    for module in (tables, figures):
        monkeypatch.setattr(module, "paper_settings", lambda data, bits, **c: of_paper(data, bits, **c) | quick)
    monkeypatch.setattr(hashing, "default_settings", lambda method: of_hashing(method) | {"epochs": 1})
    one = {"epochs": 1, "pretraining": 1, "warmup": 0}
    for name, system in SYSTEMS.items():
        changed = system.settings | {key: value for key, value in one.items() if key in system.settings}
        monkeypatch.setitem(SYSTEMS, name, replace(system, settings=changed, choices=system.choices[:2]))
    of_distilled = controls.distilled_defaults()
    monkeypatch.setattr(controls, "distilled_defaults", lambda: of_distilled | {"epochs": 1})
    monkeypatch.setattr(figures, "MAP_EVERY", 1)
    monkeypatch.setattr(figures, "HELD_IMAGES", 100)
    monkeypatch.setattr(figures, "TSNE_IMAGES", 60)
    few = {"alpha": recipe.SENSITIVITY["alpha"][1:3], "positive_prior": recipe.SENSITIVITY["positive_prior"][:1]}
    monkeypatch.setattr(recipe, "SENSITIVITY", few | {"memory_size": recipe.SENSITIVITY["memory_size"][:1]})
    more = {name: recipe.CHANGES[name] for name in ("projection", "4-bit codes")}
    monkeypatch.setattr(recipe, "CHANGES", few | more | {"cached_views": [("2", {"cached_views": 2})]})
    monkeypatch.setattr(
        tables, "grid", lambda num_bytes, dim: [Baseline("PQ", num_bytes), Baseline("ITQ", num_bytes), Baseline("Flat")]
    )


DIGITS = [
    "--data",
    "digits",
    "--backbone",
    "pixels",
    "--image-size",
    "8",
    "--views",
    "2",
    "--bits",
    "16",
    "--queries",
    "60",
]


def test_all_experiments_end_to_end_and_go_on(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper.main(["all", *DIGITS, "--out", str(tmp_path)])
    names = {f"{name}.json" for name in paper.EXPERIMENTS}
    pictures = {f"fig{i}.png" for i in range(2, 10)}
    assert {path.name for path in tmp_path.iterdir()} == names | pictures | {"cells", "paper.md"}
    table = json.loads((tmp_path / "table1.json").read_text())
    assert table["data"] == "digits" and "torch" in table["environment"]
    systems = {row["system"]: row["map"] for row in table["rows"]}
    precision = {row["system"]: row["precision_at"] for row in table["rows"]}
    assert {"MeCoQ", "MeCoQ, 4-bit codes", "PQ", "ITQ", "Flat", *SYSTEMS, *tables.CONTROLS} <= systems.keys()
    page = (tmp_path / "paper.md").read_text()
    for system, value in systems.items():
        first = ", ".join(f"{100 * precision[system][n]:.1f}" for n in ("1", "10", "100"))
        assert f"| {system} | {100 * value:.2f} ({first}) |" in page
    assert "| TBH | CVPR'20 | DBH |" in page
    rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert [row["value"] for row in rows if row["default"]] == ["5.0", "MLP 1024", "2"]
    default = {row["map"] for row in rows if row["default"]}
    assert default == {systems["MeCoQ"]}, "one cell, also Table 1's"
    for row in rows:
        assert f"| {row['parameter']} | {row['value']} | {100 * row['held_out']:.2f} |" in page
    for name in ("run", "_fit", "_profile"):
        monkeypatch.setattr(tables, name, lambda *_: pytest.fail("computed a second time"))
    paper.main(["table1", "table2", "table3", *DIGITS, "--out", str(tmp_path)])
    assert json.loads((tmp_path / "table1.json").read_text())["rows"] == table["rows"]


def test_the_page_says_which_default_recipe_its_results_are_of(tmp_path: Path) -> None:
    (tmp_path / "variants.json").write_text((RESULTS / "variants.json").read_text())
    pages.write_page(tmp_path)
    assert "of version 0.1.0" not in (tmp_path / "paper.md").read_text()
    (tmp_path / "table2.json").write_text((RESULTS / "table2.json").read_text())
    pages.write_page(tmp_path)
    page = (tmp_path / "paper.md").read_text()
    assert f'are those of version 0.1.0, but in "{pages.TITLES["variants"]}": ' in page


def test_degeneration_where_layers_learn(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {name: change for name, change in figures.CONDITIONS.items() if "trainable_layers" in change}
    monkeypatch.setattr(figures, "CONDITIONS", dict(list(layers.items())[:1]))
    net = ["--backbone", "timm:resnet10t", "--weights", "none", "--image-size", "32"]
    paper.main(["fig2", *DIGITS, *net, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "fig2.json").read_text())["rows"]
    assert [row["diversity_weight"] for row in rows] == [0.0, 0.5]
    assert all([epoch for epoch, _ in row["maps"]] == [0, 1, 2] for row in rows)
    assert all(len({value for _, value in row["maps"]}) == 3 for row in rows), "judged with the features of their epoch"


def test_further_seeds_judge_what_came_close(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = {"5.0": 0.60, "10.0": 0.598, "20.0": 0.59}
    monkeypatch.setattr(recipe, "CHANGES", {"alpha": recipe._values("alpha", 5.0, 10.0, 20.0)})
    monkeypatch.setattr(recipe, "differences", lambda data, bits, change: {k: v for k, v in change.items() if v != 5.0})

    def changed(data: Any, cells: Any, bits: int, seed: int, change: Any) -> dict[str, float]:
        value = held[str(change.get("alpha", 5.0))]
        return {"map": value, "held_out": value + 0.02 * seed}

    monkeypatch.setattr(recipe, "changed", changed)
    cells = Cells(tmp_path, {"environment": {}})
    recipe.recipe(types.SimpleNamespace(k=10), cells, [32], 2)  # type: ignore[arg-type]
    rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert [(row["value"], row["seed"]) for row in rows] == [
        ("5.0", 0), ("10.0", 0), ("20.0", 0), ("5.0", 1), ("10.0", 1)
    ]  # fmt: skip
    text = pages._recipe(json.loads((tmp_path / "recipe.json").read_text()))
    assert "| alpha | 10.0 | 60.80 ± 1.41 | -0.20 ± 0.00 |" in text
    assert "| alpha | 20.0 | 59.00 | -1.00 |" in text
