"""Before the first step: whether the data fits, how its batches are made, what is measured on it once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.sources import FeatureSource, ImageSource, open_source
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training import start
from mecoq_faiss.training.pairs import CachedPairs, FeaturePairs, ImagePairs
from mecoq_faiss.training.start import (
    batch_size,
    check_enough,
    check_same_data,
    chosen,
    describe_data,
    fit_to_source,
    make_pairs,
    prepare,
)

PIXELS = ModelConfig(backbone="pixels", weights="none", image_size=4, hidden=8, D=8, M=2, nbits=4)


def features(folder: Path, x: np.ndarray) -> FeatureSource:
    np.save(folder / "x.npy", x.astype(np.float32))
    source = open_source(folder / "x.npy", "train")
    assert isinstance(source, FeatureSource)
    return source


@pytest.fixture
def flat(tmp_path: Path) -> FeatureSource:
    """(20, 6), of mean 3 and scale 2."""
    return features(tmp_path, 3 + 2 * np.random.default_rng(0).normal(size=(20, 6)))


@pytest.fixture
def photos(tmp_path: Path) -> ImageSource:
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path, "train")
    assert isinstance(source, ImageSource)
    return source


def test_another_source_is_named_in_one_line(flat: FeatureSource, tmp_path: Path) -> None:
    split = {"fingerprint": "0", "source": "a\nb" * 1000}
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=r"trained on other data \(a b") as caught:
        check_same_data(tmp_path / "split.json", flat)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500


def test_the_model_takes_the_features_width(flat: FeatureSource, photos: ImageSource) -> None:
    fitted = fit_to_source(replace(PIXELS, trainable_layers=0), flat)
    assert fitted == replace(PIXELS, backbone="features", feature_dim=6)
    assert fit_to_source(fitted, flat) == fitted and fit_to_source(PIXELS, photos) is PIXELS
    with pytest.raises(ValueError, match=r"x\.npy holds features of width 6, the model takes 7"):
        fit_to_source(replace(fitted, feature_dim=7), flat)
    with pytest.raises(ValueError, match="holds images, and backbone 'features' takes features"):
        fit_to_source(fitted, photos)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = np.ones((5, 6))
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 3 .* has NaN"):
        fit_to_source(PIXELS, features(tmp_path, x))


def test_batch_sizes() -> None:
    sizes = {0: 2, 1: 2, 4: 2, 5: 2, 6: 3, 511: 255, 512: 512, 10**6: 512}
    assert {n: batch_size(n, TrainConfig()) for n in sizes} == sizes
    assert batch_size(5, TrainConfig(batch_size=64)) == 64


def test_enough_is_one_batch() -> None:
    check_enough(range(64), TrainConfig(batch_size=64))
    check_enough(range(2), TrainConfig())
    with pytest.raises(ValueError, match="63 readable images are fewer than one batch of 64: give more images or a sm"):
        check_enough(range(63), TrainConfig(batch_size=64))
    with pytest.raises(ValueError, match=r"1 readable images are fewer than one batch of 2: give more images$"):
        check_enough(range(1), TrainConfig())


def test_the_same_data_is_known_again(flat: FeatureSource, photos: ImageSource, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(describe_data(flat))
    found = json.loads(split.read_text())
    assert found == {"source": flat.name, "items": 20, "fingerprint": flat.fingerprint, "protocol": None}
    check_same_data(split, flat)
    for other in (photos, flat.subset(range(19))):
        with pytest.raises(ValueError, match=rf"{tmp_path.name} was trained on other data \(.*x\.npy\): resume with"):
            check_same_data(split, other)
    for damaged in ("", "[]", "{}", '{"fingerprint": "x"}'):
        split.write_text(damaged)
        with pytest.raises(ValueError, match=r"split\.json is missing or damaged .*: train anew"):
            check_same_data(split, flat)


def test_a_protocols_images_are_named() -> None:
    source = open_source("digits", "queries")
    found = json.loads(describe_data(source))
    assert found["paths"] == list(source.paths) and found["protocol"]["split"] == "queries"


def test_the_batches_that_the_data_asks_for(flat: FeatureSource, photos: ImageSource, tmp_path: Path) -> None:
    config = TrainConfig(batch_size=4, cached_views=3, workers=0)
    of_features = MeCoQ(fit_to_source(PIXELS, flat))
    assert isinstance(make_pairs(flat, of_features, config, "cpu"), FeaturePairs)
    (tmp_path / "more").mkdir()
    views = features(tmp_path / "more", np.ones((20, 2, 6)))
    assert isinstance(make_pairs(views, of_features, config, "cpu"), CachedPairs)
    one_view = features(tmp_path / "more", np.ones((20, 1, 6)))
    assert isinstance(make_pairs(one_view, of_features, config, "cpu"), FeaturePairs)
    model = MeCoQ(PIXELS)
    cached = make_pairs(photos, model, config, "cpu")
    assert isinstance(cached, CachedPairs) and cached.features.shape == (6, 3, 48)
    assert isinstance(make_pairs(photos, model, replace(config, view_cache=False), "cpu"), ImagePairs)


def test_chosen_numbers_take_the_place_of_0(
    flat: FeatureSource, photos: ImageSource, caplog: pytest.LogCaptureFixture
) -> None:
    asked = TrainConfig(workers=0, cached_views=2)
    with caplog.at_level("INFO", "mecoq_faiss"):
        pairs = make_pairs(photos, MeCoQ(PIXELS), asked, "cpu")
        assert chosen(asked, photos, pairs) == replace(asked, batch_size=3)
        pairs = make_pairs(flat, MeCoQ(fit_to_source(PIXELS, flat)), TrainConfig(), "cpu")
        assert chosen(TrainConfig(), flat, pairs) == replace(TrainConfig(), batch_size=10)
    said = [record.message for record in caplog.records if "batch size" in record.message]
    assert said == [f"batch size {n}, half of the images; --batch-size changes it" for n in (3, 10)]


def test_mean_scale_and_codewords_are_the_datas(flat: FeatureSource) -> None:
    torch.manual_seed(0)
    model = MeCoQ(replace(fit_to_source(PIXELS, flat), standardize=True))
    pairs = make_pairs(flat, model, TrainConfig(batch_size=4), "cpu")
    before = model.quantizer.codebooks.clone()
    prepare(model, pairs, "random")
    x = torch.from_numpy(flat.vectors(slice(None)))
    standard = model.standardize(x)
    torch.testing.assert_close(standard.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)
    assert torch.equal(model.quantizer.codebooks, before)
    prepare(model, pairs, "data")
    with torch.no_grad():
        segments = model.quantizer.segments(model.embed(x))  # (20, M, d)
    near = torch.einsum("nmd,mkd->mkn", segments, model.quantizer.codebooks).amax(-1)
    assert near.min() > 0.99
    torch.testing.assert_close(model.quantizer.codebooks.norm(dim=-1), torch.ones(2, 16))


def test_features_of_the_backbone_that_are_not_finite(flat: FeatureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MeCoQ(fit_to_source(PIXELS, flat))
    monkeypatch.setattr(model, "features", lambda x: x * float("inf"))
    with pytest.raises(ValueError, match="features hold NaN or infinity"):
        prepare(model, make_pairs(flat, model, TrainConfig(batch_size=4), "cpu"), "data")


def test_no_more_examples_are_looked_at_than_needed(flat: FeatureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 in batches of 4, the first 8: two of the model's calls."""
    model = MeCoQ(replace(fit_to_source(PIXELS, flat), standardize=True))
    pairs = make_pairs(flat, model, TrainConfig(batch_size=4), "cpu")
    first = torch.cat([x for _, x in zip(range(2), pairs.examples(), strict=False)])
    monkeypatch.setattr(start, "PREPARE_ROWS", len(first))
    prepare(model, pairs, "random")
    torch.testing.assert_close(model.standardize(first).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert model.standardize(torch.from_numpy(flat.vectors(slice(None)))).mean(0).abs().max() > 0.01
