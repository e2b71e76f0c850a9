"""Altered copies: of which images, what is said of them, and that each is the view drawn for its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
from mecoq_faiss.comparison.copies import FEWEST_COPIES, MOST, NEW_VIEWS, SEED, choose_rows, copy_features
from mecoq_faiss.data.crop import crop
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import apply_color, draw_view, view_spec


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("n", "count"), [(130, 130), (MOST, MOST), (1000, MOST)])
def test_rows_where_it_is_not_known_what_was_trained_on(n: int, count: int) -> None:
    rows, note = choose_rows(n, None, rng())
    assert len(set(rows.tolist())) == count and (np.diff(rows) > 0).all() and 0 <= rows[0] <= rows[-1] < n
    assert note == (
        f"altered copies of {count} images of the database; whether the model was trained on them is not known, since "
        "its training data are not at hand"
    )


def test_rows_that_were_not_trained_on_are_taken_where_they_are_enough() -> None:
    seen = np.ones(1000, dtype=bool)
    seen[rng().permutation(1000)[:FEWEST_COPIES]] = False
    rows, note = choose_rows(1000, seen, rng())
    np.testing.assert_array_equal(rows, np.flatnonzero(~seen))
    assert note == "altered copies of 100 images of the database; the model was not trained on them"
    seen[rows[0]] = True  # one too few
    rows, note = choose_rows(1000, seen, rng())
    assert len(rows) == MOST
    assert note == (
        f"altered copies of 500 images of the database; the model was trained on {seen[rows].sum()} of them, which "
        "flatters the learned codes"
    )


def test_each_copy_is_the_view_that_is_drawn_for_its_row(photos: Path) -> None:
    source = open_source(photos, "database").subset(np.arange(70))  # more than a batch
    assert isinstance(source, ImageSource)
    config = TrainConfig(crop_scale=(0.3, 0.6), flip=0.7)
    model = MeCoQ(ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)).eval()
    features = copy_features(source, model, config, workers=0)
    for row in range(70):
        image = source.open(row)
        view = draw_view(view_spec(config), *image.size, key=(SEED, NEW_VIEWS, row))
        expected = apply_color(torch.from_numpy(crop(image, view.box, 8))[None], torch.from_numpy(view.color)[None])
        np.testing.assert_allclose(features[row], model.features(expected)[0], atol=1e-5)
    assert features.shape == (70, 192) and not np.isclose(features[0], features[1]).all()
