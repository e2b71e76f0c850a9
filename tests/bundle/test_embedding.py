"""Sources through an encoder: what fits, all at once and batch by batch, and which model it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.bundle import embedding
from mecoq_faiss.bundle.embedding import check_fits, embed_batches, embed_source, model_fingerprint
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import ImageSource, open_source

OF_IMAGES = ModelConfig(backbone="pixels", image_size=8, D=8, M=2, hidden=16)
OF_FEATURES = ModelConfig(backbone="features", feature_dim=5, D=8, M=2, hidden=16)
BROKEN = 17


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "ENCODE_BATCH", 16)


def encoder_of(config: ModelConfig) -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(config), "cpu")


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """40 photos, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("embedding")
    for i in range(40):
        name = f"{i:03}.png"
        (folder / name).write_bytes(b"broken" if i == BROKEN else (photos / name).read_bytes())
    opened = open_source(folder, "database")
    assert isinstance(opened, ImageSource)
    return opened


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_of_images_is_embedded_as_its_images_are(source: ImageSource, workers: int) -> None:
    encoder = encoder_of(OF_IMAGES)
    z, rows = embed_source(encoder, source, workers=workers)
    readable = [i for i in range(40) if i != BROKEN]
    assert rows.tolist() == readable and rows.dtype == np.int64
    np.testing.assert_allclose(z, encoder.encode([source.open(i) for i in readable]), atol=1e-5)


def test_batches_from_one_in_the_middle_on(source: ImageSource) -> None:
    encoder = encoder_of(OF_IMAGES)
    batches = list(embed_batches(encoder, source, 1, workers=0))
    expected = [[i for i in range(16, 32) if i != BROKEN], list(range(32, 40))]
    assert [rows.tolist() for rows, _ in batches] == expected
    every = list(embed_batches(encoder, source, 0, workers=0))
    assert every[0][0].tolist() == list(range(16)) and len(every) == 3
    for (_, z), (_, again) in zip(batches, every[1:], strict=True):
        np.testing.assert_array_equal(z, again)


def test_features_are_embedded_and_of_several_views_the_first(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(35, 3, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    encoder = encoder_of(OF_FEATURES)
    z, rows = embed_source(encoder, open_source(tmp_path / "x.npy", "queries"))
    np.testing.assert_allclose(z, encoder.encode(x[:, 0]), atol=1e-6)
    assert rows.tolist() == list(range(35))
    (_, (rows, last)) = embed_batches(encoder, open_source(tmp_path / "x.npy", "queries"), 1, workers=0)
    assert rows.tolist() == [32, 33, 34]
    np.testing.assert_array_equal(last, z[32:])


def test_no_readable_image(source: ImageSource) -> None:
    broken = source.subset([BROKEN])
    with pytest.raises(ValueError, match=re.escape(f"{source.name} has no readable image: check the files")):
        embed_source(encoder_of(OF_IMAGES), broken, workers=0)


def test_what_does_not_fit_is_refused(source: ImageSource, tmp_path: Path) -> None:
    for name, x in {"x": np.ones((4, 5)), "wide": np.ones((4, 2, 6)), "nan": np.full((4, 5), np.nan)}.items():
        np.save(tmp_path / f"{name}.npy", x.astype(np.float32))
    fits, wide, nan = (open_source(tmp_path / f"{name}.npy", "train") for name in ("x", "wide", "nan"))
    of_images, of_features = encoder_of(OF_IMAGES), encoder_of(OF_FEATURES)
    check_fits(of_images, source)
    check_fits(of_features, fits)
    for encoder, wrong, message in (
        (of_features, source, f"the model takes features and {source.name} holds images: give an .h5 or .npy file"),
        (of_images, fits, f"the model takes images and {fits.name} holds features: give a folder or tar of images"),
        (of_features, wide, f"{wide.name} holds features of width 6, the model takes 5"),
        (of_features, nan, f"{nan.name}: row 0 (0) has NaN"),
    ):
        for refuse in (check_fits, embed_source):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                refuse(encoder, wrong)


def test_the_fingerprint_is_that_of_the_tensors() -> None:
    one, same = encoder_of(OF_IMAGES), encoder_of(OF_IMAGES)
    assert model_fingerprint(one) == model_fingerprint(same)
    same.encode(np.zeros((2, 8, 8, 3), np.uint8))
    assert model_fingerprint(one) == model_fingerprint(same), "encoding changes nothing"
    for tensor in same.model.state_dict().values():
        before = model_fingerprint(same)
        tensor.view(-1)[0] += 1
        assert model_fingerprint(same) != before
