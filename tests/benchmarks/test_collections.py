"""The benchmark of many collections: how sets are drawn, what is judged, and that the page is the results'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.collections import page, sets, systems, text
from benchmarks.paper.cells import Cells
from benchmarks.paper.data import Data
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.data.sources import ImageSource


def test_sets_are_drawn_from_the_classes_and_do_not_overlap(tmp_path: Path) -> None:
    for c in "abcd":
        for i in range(12):
            (tmp_path / c).mkdir(exist_ok=True)
            Image.new("L", (4, 4), 20 * i).save(tmp_path / c / f"{i}.png")
    source = sets._images(str(tmp_path))
    split = sets._of_classes(source, np.array([10, 6, 5]), share=0.2)
    queries, database = (np.bincount(part.labels, minlength=4) for part in (split.queries, split.database))  # type: ignore[arg-type]
    assert sorted(queries + database) == [0, 5, 6, 10] and sorted(queries) == [0, 1, 1, 2]
    assert not set(split.queries.paths) & set(split.database.paths)
    assert split.train.paths == split.database.paths
    assert sets._some(source, 7).paths == sets._some(source, 7).paths and len(sets._some(source, 7)) == 7


@pytest.mark.parametrize(("name", "queries", "database"), [("few", 2000, 500), ("five", 250, 1000)])
def test_sets_of_the_same_classes_have_so_many_images(name: str, queries: int, database: int, tmp_path: Path) -> None:
    for c in range(11):
        (tmp_path / "train" / f"{c}").mkdir(parents=True)
        for i in range(250):
            (tmp_path / "train" / f"{c}" / f"{i}.png").touch()  # images are opened when they are used
    split = sets.COLLECTIONS[name](str(tmp_path))
    assert (len(split.queries), len(split.database)) == (queries, database)
    assert split.train.paths == split.database.paths
    counts = np.bincount(split.database.labels)  # type: ignore[arg-type]
    assert len(set(counts[counts > 0])) == 1


def test_neighbors_are_those_of_the_normalised_features() -> None:
    rng = np.random.default_rng(0)
    xt, xb, xq = (3 + rng.normal(size=(n, 5)) for n in (30, 40, 6))
    found = systems.neighbors(systems.normalised(xb, xt), systems.normalised(xq, xt))
    b, q = xb - xt.mean(axis=0), xq - xt.mean(axis=0)
    cosines = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(found, np.argsort(-cosines, axis=1)[:, :10])


def test_texts_are_split_into_definitions_and_their_fields(tmp_path: Path) -> None:
    line = "0000174{} {:02} n 01 word 0 000 | a {} thing"
    for part, field in (("noun", 3), ("verb", 29), ("adj", 0), ("adv", 2)):
        lines = ["  1 This software", *(line.format(i, field, part) for i in range(2))]
        (tmp_path / f"data.{part}").write_text("\n".join(lines))
    texts, fields = text.definitions(tmp_path)
    assert texts == [f"a {p} thing" for p in ("noun", "verb", "adj", "adv") for _ in range(2)]
    assert fields.tolist() == [3, 3, 29, 29, 0, 0, 2, 2]


def test_a_table_has_the_means_of_seeds_and_the_best_of_faiss_for_each_figure() -> None:
    def row(system: str, seed: int, mean: float, first: float) -> dict:
        figures = {"map": mean, "precision_at": {"1": first, "10": 0.3}, "recall_at": {"10": 0.5, "100": 0.9}}
        return {"system": system, "bytes": 4, "seed": seed, **figures}

    rows = [row("learned", 0, 0.5, 0.5), row("learned", 1, 0.52, 0.5), row("PQ", 0, 0.4, 0.1), row("RQ", 0, 0.3, 0.6)]
    table = page._table([*rows, row("Flat", 0, 0.9, 0.9)], page.SHOWN)
    assert "| 4 | learned | 51.0 ± 1.4 | 50.0 ± 0.0 | 30.0 ± 0.0 |" in table
    assert "| 4 | best of FAISS | 40.0 (PQ) | 60.0 (RQ) | 30.0 (PQ) |" in table


def test_growth_is_told_by_the_number_of_images() -> None:
    figures = {"map": 0.5, "precision_at": {"1": 0.6, "10": 0.7}}
    rows = [{"system": "learned", "bytes": 4, "images": n, **figures} for n in (5000, 50_000)]
    table = page._growth([*rows, {"system": "PQ", "bytes": 4, "images": 50_000, **figures}], page.SHOWN)
    assert table.splitlines()[2:] == [
        "| 4 | 5,000 | learned | 50.0 | 60.0 | 70.0 |",
        "| 4 | 50,000 | learned | 50.0 | 60.0 | 70.0 |",
        "| 4 | 50,000 | best of FAISS | 50.0 (PQ) | 60.0 (PQ) | 70.0 (PQ) |",
    ]


def test_beside_growth_codes_of_faiss_are_chosen_on_some_images_and_fitted_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"map": 0.5, "precision_at": {"1": 0.6, "10": 0.7}, "recall_at": {"10": 0.5, "100": 0.9}}
    chosen_on, fitted_to = [], []

    def choose(goals: list[str], settings: list[Baseline], xt: np.ndarray, *_: object, **__: object) -> object:
        chosen_on.append(len(xt))
        return {goals[0]: {"PQ": settings[0]}}, None

    def baseline(data: Data, setting: Baseline, xt: np.ndarray, near: np.ndarray) -> dict:
        fitted_to.append(len(xt))
        return figures

    for name, value in {
        "GROWTH": (20,), "CHOSEN_ON": 300, "choose_for": choose, "_baseline": baseline,
        "_learned": lambda data, *_: {codes: figures | {"train_seconds": len(data.xt)} for codes in systems.CODES},
    }.items():  # fmt: skip
        monkeypatch.setattr(systems, name, value)
    x = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    y = np.arange(600) % 3
    images = ImageSource.__new__(ImageSource)
    data = Data("x", x, x[:9], y[:9], x, y, np.arange(0), 100, np.stack([x, x], 1), images, images, images, {})
    cells = Cells(tmp_path, {})
    systems._faiss(data, cells, 1, y, x, np.arange(9), x, fitted_to=None)
    assert (chosen_on.pop(), fitted_to.pop(), fitted_to.pop()) == (600, 600, 600), "another choice"
    for cell in tmp_path.glob("cells/PQ*"):
        cell.unlink()
    rows = systems.growth(data, cells, 1, 1)
    assert [(row["system"], row["images"], row["map"]) for row in rows] == [
        ("learned", 20, 0.5), ("learned, additive", 20, 0.5), ("learned", 600, 0.5), ("learned, additive", 600, 0.5),
        ("PQ", 600, 0.5), (systems.USUAL, 600, 0.5),
    ]  # fmt: skip
    assert [row["train_seconds"] for row in rows[:4]] == [20, 20, 600, 600]
    assert chosen_on == [300] and fitted_to == [600, 600]


def test_the_page_is_that_of_the_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
