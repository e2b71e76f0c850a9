"""What an export is proved with: queries near its items that are none of them, and images encoded again."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.bundle import probes
from mecoq_faiss.bundle.encoded import encode_source
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.probes import QUERIES, encode_again, queries_like_codes, queries_like_images
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.crop import crop
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import ViewSpec, apply_color, draw_view


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(ModelConfig(backbone="pixels", image_size=8, D=8, M=2, hidden=16)), "cpu")


@pytest.fixture(scope="module")
def of_features() -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(ModelConfig(backbone="features", feature_dim=30, D=8, M=2, hidden=16)), "cpu")


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_queries_like_codes_lie_near_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    books, codes = unit(rng.normal(size=(4, 16, 6))), rng.integers(0, 16, (90, 4), dtype=np.uint8)
    xq = queries_like_codes(books, codes)
    assert xq.shape == (QUERIES, 24) and xq.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(xq.reshape(-1, 4, 6), axis=2), 1, atol=1e-5)
    np.testing.assert_array_equal(xq, queries_like_codes(books, codes))
    stands_for = np.concatenate([books[m, codes[:, m]] for m in range(4)], axis=1)
    assert (xq @ stands_for.T).max() < 4 - 1e-3, "none is an item itself"
    monkeypatch.setattr(probes, "NOISE", 0.0)
    items = (queries_like_codes(books, codes) @ stands_for.T).argmax(1)
    np.testing.assert_allclose(queries_like_codes(books, codes), stands_for[items], atol=1e-6)
    cosines = (xq * stands_for[items]).sum(1) / 4
    assert cosines.mean() == pytest.approx(1 / np.sqrt(1 + 0.5**2), abs=0.03)


def test_queries_like_images_are_random_views(encoder: TorchEncoder, photos: Path) -> None:
    source = open_source(photos, "database").subset(np.arange(9))
    assert isinstance(source, ImageSource)
    found = queries_like_images(encoder, source)
    expected = []
    for row in range(9):
        image = source.open(row)
        view = draw_view(ViewSpec(), *image.size, key=(0, row))
        pixels = apply_color(torch.from_numpy(crop(image, view.box, 8))[None], torch.from_numpy(view.color)[None])
        expected.append(encoder.encode_batch((pixels * 255).round().to(torch.uint8))[0])
    near = np.abs(found[:, None] - np.array(expected)[None]).max(2) < 1e-5  # in an order of its own
    np.testing.assert_array_equal(near.sum(0), 1)
    np.testing.assert_array_equal(near.sum(1), 1)
    assert len(queries_like_images(encoder, open_source(photos, "database"))) == QUERIES


def test_queries_like_features_lack_a_tenth(
    of_features: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(100, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    given: list[np.ndarray] = []
    encode = of_features.encode_batch

    def kept(batch: np.ndarray) -> np.ndarray:
        given.append(batch)
        return encode(batch)

    monkeypatch.setattr(of_features, "encode_batch", kept)
    z = queries_like_images(of_features, open_source(tmp_path / "x.npy", "database"))
    (batch,) = given
    np.testing.assert_array_equal(z, encode(batch))
    rows = (batch[:, None] == x[None]).sum(2).argmax(1)
    assert len(set(rows.tolist())) == QUERIES
    np.testing.assert_array_equal(batch, np.where(batch == 0, 0, x[rows]))
    assert (batch == 0).mean() == pytest.approx(0.1, abs=0.02)


def test_queries_where_no_image_of_the_sample_can_be_read(tmp_path: Path) -> None:
    """Any vectors serve, but always the same, and none drawn from the caller's random numbers."""
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"broken")
    encoder = TorchEncoder(MeCoQ(ModelConfig(backbone="pixels", image_size=6, D=8, M=2, hidden=4)))
    before = torch.get_rng_state()
    first, second = (queries_like_images(encoder, open_source(tmp_path, "database")) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.linalg.norm(first.reshape(-1, 2, 4), axis=2), 1, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_encoded_again_have_their_codes(encoder: TorchEncoder, photos: Path, tmp_path: Path) -> None:
    """Up to a batch of those that could be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(b"broken" if path.name == "003.png" else path.read_bytes())
    source = open_source(folder, "database")
    encode_source(encoder, source, tmp_path / "codes.h5", workers=0)
    rows, codes = encode_again(encoder, source, str(tmp_path / "codes.h5"))
    with h5py.File(tmp_path / "codes.h5") as file:
        assert len(file["codes"]) == 129 and 3 not in file["ids"][:]
        np.testing.assert_array_equal(codes, file["codes"][:ENCODE_BATCH])
    assert rows.tolist() == list(range(ENCODE_BATCH))


def test_features_encoded_again_have_their_codes(of_features: TorchEncoder, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32))
    source = open_source(tmp_path / "x.npy", "database")
    encode_source(of_features, source, tmp_path / "codes.h5")
    rows, codes = encode_again(of_features, source, str(tmp_path / "codes.h5"))
    with h5py.File(tmp_path / "codes.h5") as file:
        np.testing.assert_array_equal(codes, file["codes"][:])
    assert rows.tolist() == list(range(20))
