"""The encoder an application loads: every kind of input, one result."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mecoq_faiss import MeCoQ, ModelConfig, load_encoder
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.images import UnreadableImage
from mecoq_faiss.data.views import to_float
from mecoq_faiss.quantizer import SoftProductQuantizer


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(ModelConfig(backbone="pixels", image_size=6, D=8, M=2, hidden=16)))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 11, 9, 3), dtype=np.uint8)


def test_batches_may_be_smaller_and_shown(
    encoder: TorchEncoder, pixels: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    z = encoder.encode(pixels)
    sizes: list[int] = []
    whole = encoder.encode_batch

    def watched(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return whole(batch)

    monkeypatch.setattr(encoder, "encode_batch", watched)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    np.testing.assert_allclose(encoder.encode(pixels, batch_size=2, show_progress_bar=True), z, atol=1e-6)
    assert sizes == [2, 1] and "encode" in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch_size=0"):
        encoder.encode(pixels, batch_size=0)


def test_all_kinds_of_input_agree(encoder: TorchEncoder, pixels: np.ndarray, tmp_path: Path) -> None:
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


def test_bytes_and_open_files_are_images(encoder: TorchEncoder, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels[0]).resize((60, 90)).save(path)  # large enough for JPEG's own scaling
    data, z = path.read_bytes(), encoder.encode(path)
    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw:
        for image in (data, bytearray(data), memoryview(data), io.BytesIO(data), file, raw):
            np.testing.assert_array_equal(encoder.encode(image), z)
        assert not file.closed
        np.testing.assert_allclose(encoder.encode([data, file, path, raw]), np.repeat(z, 4, axis=0), atol=1e-6)
    with pytest.raises(UnreadableImage, match="the bytes given: not an image"):
        encoder.encode([data[:2]])
    with open(path, encoding="latin-1") as text, pytest.raises(ValueError, match=r"a\.jpg is open as text: .*'rb'"):
        encoder.encode(text)
    with pytest.raises(UnreadableImage, match="closed file"):
        encoder.encode(file)


def test_it_is_the_model_with_segments_of_norm_1(encoder: TorchEncoder, pixels: np.ndarray) -> None:
    views = torch.stack([torch.from_numpy(fixed_view(Image.fromarray(p), 6)) for p in pixels])
    with torch.no_grad():
        z = encoder.model.embed(to_float(views)).reshape(3, 2, 4)
    expected = (z / z.norm(dim=-1, keepdim=True)).reshape(3, 8)
    np.testing.assert_allclose(encoder.encode(pixels), expected.numpy(), atol=1e-6)


def test_more_than_a_batch_and_none(encoder: TorchEncoder, pixels: np.ndarray) -> None:
    many = [pixels[i % 3] for i in range(2 * ENCODE_BATCH + 1)]
    z = encoder.encode(many)
    np.testing.assert_allclose(z, encoder.encode(pixels)[np.arange(len(many)) % 3], atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


def test_transparency_and_16_bits_as_from_a_file(encoder: TorchEncoder, tmp_path: Path) -> None:
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
def test_other_input_is_refused(encoder: TorchEncoder, wrong: object) -> None:
    with pytest.raises(ValueError):
        encoder.encode(wrong)


def test_files_that_are_no_images(encoder: TorchEncoder, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no")
    with pytest.raises(UnreadableImage, match=r"text\.jpg"):
        encoder.encode(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        encoder.encode("nowhere.jpg")
    with pytest.raises(ValueError, match="is a folder: give the files in it"):
        encoder.encode(tmp_path)
    np.save(tmp_path / "x.npy", np.ones((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"x\.npy is a file of features: the model takes images"):
        encoder.encode([tmp_path / "x.npy"])
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        load_encoder(tmp_path)


@pytest.fixture
def of_features() -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(ModelConfig(backbone="features", feature_dim=5, D=8, M=2)))


def test_features(of_features: TorchEncoder) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    z = of_features.encode(x)
    assert isinstance(of_features.model.quantizer, SoftProductQuantizer)
    np.testing.assert_allclose(np.linalg.norm(z.reshape(4, 2, 4), axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(of_features.encode(x[0]), z[:1], atol=1e-6)
    for same in (x.tolist(), x.astype(np.float64), torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
        np.testing.assert_array_equal(of_features.encode(same), z)
    assert of_features.encode([]).shape == of_features.encode(x[:0]).shape == (0, 8)


def test_files_of_features(of_features: TorchEncoder, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    z = of_features.encode(x[:, 0])
    np.save(tmp_path / "x.npy", x[:, 0].astype(np.float64))
    np.save(tmp_path / "views.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = x[:, 0]
    for name in ("x.npy", "views.npy", "x.h5"):
        np.testing.assert_array_equal(of_features.encode(tmp_path / name), z)
        np.testing.assert_array_equal(of_features.encode(str(tmp_path / name)), z)
    both = of_features.encode([tmp_path / "x.npy", str(tmp_path / "x.h5")])
    np.testing.assert_allclose(both, np.concatenate([z, z]), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((2, 4)), "features of width 5, got shape (2, 4)"),
        (np.ones((2, 3, 5)), "got shape (2, 3, 5)"),
        (np.full((1, 5), np.nan), "NaN or infinite"),
        (b"bytes", "the model takes features (n, 5) or files of them"),
        (["x.npy", np.ones(5)], "the model takes features (n, 5)"),
        (None, "features"),
        (42, "features"),
        (Image.new("RGB", (5, 5)), "features"),
        ("nowhere.npy", "no file nowhere.npy"),
        ("photo.png", "photo.png: the model takes features, give a file of them (.h5, .hdf5, .npy)"),
        ("folder", "folder is a folder"),
        ("wide.npy", "wide.npy holds features of width 6, the model takes 5"),
        ("nan.npy", "nan.npy: row 1 (1) has NaN"),
        ("ints.npy", "ints.npy: features are int64"),
        ("broken.npy", "broken.npy: not a readable .npy"),
        ("broken.h5", "broken.h5: not a readable HDF5"),
    ],
)
def test_no_features(
    wrong: Any, message: str, of_features: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (5, 5)).save("photo.png")
    np.save("wide.npy", np.ones((2, 6), np.float32))
    np.save("nan.npy", np.array([[1] * 5, [np.nan] * 5], np.float32))
    np.save("ints.npy", np.ones((2, 5), np.int64))
    for name in ("broken.npy", "broken.h5"):
        Path(name).write_bytes(b"no")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as error:
        of_features.encode(wrong)
    assert "\n" not in str(error.value)
