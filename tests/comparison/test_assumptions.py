"""Warnings: one line each, of what was counted, and none where all is as the recipe assumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig
from mecoq_faiss.comparison.assumptions import SAMPLE, share_of_a_kind, warnings
from mecoq_faiss.config import make_configs
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.presets import settings_for

MODEL = ModelConfig(M=4, D=16, nbits=4)


def classes(count: int, each: int) -> Any:
    return np.repeat(np.arange(count), each)


def test_nothing_is_said_where_all_is_as_assumed() -> None:
    digits = open_source("digits", "train")
    assert warnings(MODEL, TrainConfig(positive_prior=0.1), digits, digits.labels, 297) == []
    assert warnings(MODEL, None, None, None, 100) == [], "nor where nothing is known"


def test_few_images_a_codeword() -> None:
    digits = open_source("digits", "train")
    assert warnings(MODEL, None, digits.subset(np.arange(64)), None, 100) == []
    (said,) = warnings(MODEL, None, digits.subset(np.arange(63)), None, 100)
    assert said.startswith("the run learned from 63 images, 3.9 for each of the 16 codewords: ")


@pytest.mark.parametrize(("shape", "count"), [((70, 8), 1), ((70, 2, 8), 0)])
def test_features_without_views(shape: tuple[int, ...], count: int, tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    said = warnings(MODEL, None, open_source(tmp_path / "x.npy", "train"), None, 100)
    assert len(said) == count and all("without views" in line for line in said)


@pytest.mark.parametrize(
    ("prior", "count", "warns"),
    [(0.15, 10, False), (0.02, 100, False), (0.02, 10, True), (0.0, 10, False)],
)
def test_a_prior_far_below_the_share_of_pairs_of_one_kind(prior: float, count: int, warns: bool) -> None:
    said = warnings(MODEL, TrainConfig(positive_prior=prior), None, classes(count, 5), 100)
    assert len(said) == warns
    for line in said:
        assert "a chance of 0.1, by their labels" in line and "--set positive_prior=0.1" in line
        assert f"the run had positive_prior={prior}:" in line


def test_many_kinds() -> None:
    [said] = warnings(MODEL, TrainConfig(), None, classes(100, 5), 100)
    assert "a chance of 0.01, by their labels: kinds are many; also try training with --objective fine" in said
    assert warnings(MODEL, make_configs(**settings_for(objective="fine"))[1], None, classes(100, 5), 100) == []


def test_few_queries() -> None:
    assert warnings(MODEL, None, None, None, 99) == ["99 queries say little, hence wide intervals: give 100 or more"]


def test_the_share_of_pairs_of_one_kind() -> None:
    uneven = np.repeat([3, 5, 9], [600, 300, 100])
    assert share_of_a_kind(uneven) == pytest.approx(0.6**2 + 0.3**2 + 0.1**2)
    many = np.tile(uneven, 10)
    assert len(many) > SAMPLE and share_of_a_kind(many) == pytest.approx(0.46, abs=0.02), "of a sample"
    sets = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.uint8)
    shared = (sets.astype(int) @ sets.T > 0).mean()
    assert share_of_a_kind(sets) == shared == 7 / 16
