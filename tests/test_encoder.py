"""The encoder an application loads: every kind of input, one result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mecoq_faiss import MeCoQ, ModelConfig, load_encoder
from mecoq_faiss.encoder import BATCH, Encoder
from mecoq_faiss.images import UnreadableImage
from mecoq_faiss.quantizer import SoftProductQuantizer
from mecoq_faiss.views import fixed_view, to_float


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(MeCoQ(ModelConfig(backbone="pixels", image_size=6, D=8, M=2, hidden=16)))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 11, 9, 3), dtype=np.uint8)


def test_all_kinds_of_input_agree(encoder: Encoder, pixels: np.ndarray, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    z = encoder.encode(paths)
    assert z.shape == (3, 8) and z.dtype == np.float32
    for images in (
        [str(path) for path in paths],
        [Image.open(path) for path in paths],
        pixels,
        list(pixels),
        tensor,
        list(tensor),
        tensor.float() / 255,
        [paths[0], pixels[1], tensor[2]],
    ):
        np.testing.assert_array_equal(encoder.encode(images), z)
    for one in (paths[0], str(paths[0]), Image.open(paths[0]), pixels[0], tensor[0]):
        np.testing.assert_allclose(encoder.encode(one), z[:1], atol=1e-6)


def test_it_is_the_model_with_segments_of_norm_1(encoder: Encoder, pixels: np.ndarray) -> None:
    views = torch.stack([fixed_view(Image.fromarray(p), 6) for p in pixels])
    with torch.no_grad():
        z = encoder.model.embed(to_float(views)).reshape(3, 2, 4)
    expected = (z / z.norm(dim=-1, keepdim=True)).reshape(3, 8)
    np.testing.assert_allclose(encoder.encode(pixels), expected.numpy(), atol=1e-6)


def test_more_than_a_batch_and_none(encoder: Encoder, pixels: np.ndarray) -> None:
    many = [pixels[i % 3] for i in range(2 * BATCH + 1)]
    z = encoder.encode(many)
    np.testing.assert_allclose(z, encoder.encode(pixels)[np.arange(len(many)) % 3], atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


def test_transparency_and_16_bits_as_from_a_file(encoder: Encoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, image in {
        "alpha.png": Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)),
        "deep.png": Image.fromarray(rng.integers(0, 65536, (8, 8)).astype(np.uint16)),
    }.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(encoder.encode(image), encoder.encode(tmp_path / name))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        torch.zeros(1, 4, 4),
        torch.full((3, 4, 4), 2.0),
        torch.full((3, 4, 4), torch.nan),
        42,
        [42],
        None,
        Image.new("F", (4, 4)),
    ],
)
def test_other_input_is_refused(encoder: Encoder, wrong: object) -> None:
    with pytest.raises(ValueError):
        encoder.encode(wrong)


def test_files_that_are_no_images(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no")
    with pytest.raises(UnreadableImage, match=r"text\.jpg"):
        encoder.encode(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        encoder.encode("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        load_encoder(tmp_path)


def test_features(pixels: np.ndarray) -> None:
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=5, D=8, M=2))
    encoder = Encoder(model)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    z = encoder.encode(x)
    assert isinstance(model.quantizer, SoftProductQuantizer)
    np.testing.assert_allclose(np.linalg.norm(z.reshape(4, 2, 4), axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(x[0]), z[:1], atol=1e-6)
    for wrong in (x[:, :4], np.full((1, 5), np.nan)):
        with pytest.raises(ValueError):
            encoder.encode(wrong)
