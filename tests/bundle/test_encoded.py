"""The encoded file: what it holds, what a killed run leaves of it, and where it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.bundle import embedding, encoded
from mecoq_faiss.bundle.encoded import check_target, encode_source
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import FeatureSource, open_source

N = 50


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that do not divide: 8 rows a batch, 2 batches a shard."""
    for module in (embedding, encoded):
        monkeypatch.setattr(module, "ENCODE_BATCH", 8)
    monkeypatch.setattr(encoded, "SHARD_ROWS", 16)


@pytest.fixture
def encoder() -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(MeCoQ(ModelConfig(backbone="features", feature_dim=5, D=8, M=2, nbits=4, hidden=16)), "cpu")


@pytest.fixture
def source(tmp_path: Path) -> FeatureSource:
    """Features with paths, labels and class names."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = rng.normal(size=(N, 5)).astype(np.float32)
        file["labels"] = np.arange(N) % 3
        file["class_names"] = ["ant", "bee", "cat"]
        file["paths"] = [f"{i}.jpg" for i in range(N)]
    opened = open_source(tmp_path / "x.h5", "database")
    assert isinstance(opened, FeatureSource)
    return opened


@pytest.mark.parametrize("embeddings", ["float16", "float32", None])
def test_what_it_holds(encoder: TorchEncoder, source: FeatureSource, tmp_path: Path, embeddings: str | None) -> None:
    assert encode_source(encoder, source, tmp_path / "out.h5", embeddings=embeddings) == N
    z = encoder.encode(source.vectors(slice(None)))
    books = encoder.model.quantizer.codebooks.detach().numpy()
    books = books / np.linalg.norm(books, axis=2, keepdims=True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {"codes", "ids", "paths", "labels", "size", "mtime_ns", "sha256", "error"} | (
            {"embeddings"} if embeddings else set()
        )
        assert file["codes"].dtype == np.uint8
        np.testing.assert_array_equal(file["codes"][:], np.einsum("nmd,mkd->nmk", z.reshape(N, 2, 4), books).argmax(2))
        np.testing.assert_array_equal(file["ids"][:], np.arange(N))
        np.testing.assert_array_equal(file["labels"][:], np.arange(N) % 3)
        assert file["paths"].asstr()[:].tolist() == [f"{i}.jpg" for i in range(N)]
        assert list(file.attrs["class_names"]) == ["ant", "bee", "cat"]
        assert (file.attrs["D"], file.attrs["nbits"]) == (8, 4)
        if embeddings:
            assert file["embeddings"].dtype == embeddings
            np.testing.assert_allclose(file["embeddings"][:], z, atol=1e-3 if embeddings == "float16" else 1e-6)


def test_unreadable_images_are_left_out(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        name = f"{i:03}.png"
        (folder / name).write_bytes(b"broken" if i in (3, 8) else (photos / name).read_bytes())
    torch.manual_seed(0)
    encoder = TorchEncoder(MeCoQ(ModelConfig(backbone="pixels", image_size=8, D=8, M=2, hidden=16)), "cpu")
    assert encode_source(encoder, open_source(folder, "database"), tmp_path / "out.h5", workers=0) == 18
    assert "2 of 20 images cannot be read" in caplog.text
    readable = [i for i in range(20) if i not in (3, 8)]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["ids"][:].tolist() == readable and "labels" not in file
        assert file["paths"].asstr()[:].tolist() == [f"{i:03}.png" for i in readable]
        z = encoder.encode([folder / f"{i:03}.png" for i in readable])
        np.testing.assert_allclose(file["embeddings"][:], z, atol=1e-3)


def test_a_killed_run_continues_to_the_same_file(
    encoder: TorchEncoder, source: FeatureSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_source(encoder, source, tmp_path / "whole.h5")
    encode, calls = encoder.encode_batch, []

    def killed(batch: Any) -> np.ndarray:
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(batch)

    monkeypatch.setattr(encoder, "encode_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_source(encoder, source, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    calls[:] = [0] * 4
    assert encode_source(encoder, source, tmp_path / "out.h5") == N
    assert calls[4:] == [8, 8, 8, 8, 2], "one shard of two batches was there"
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "out.h5") as out:
        assert dict(whole.attrs).keys() == dict(out.attrs).keys() and set(whole) == set(out)
        for name in whole:
            np.testing.assert_array_equal(whole[name][:], out[name][:])


def test_where_it_cannot_be_written_is_said_before_any_work(
    encoder: TorchEncoder, source: FeatureSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "encode_batch", lambda batch: pytest.fail("nothing is encoded"))
    (tmp_path / "file").write_text("")
    there, new = tmp_path / "x.h5", tmp_path / "new.h5"
    check_target(new, None)
    for out, embeddings, error, message in (
        (there, None, FileExistsError, f"{there} exists: choose another file"),
        (new, "float64", ValueError, "embeddings='float64': choose float16, float32 or None"),
        (tmp_path / "file" / "new.h5", None, OSError, str(tmp_path / "file")),
    ):
        with pytest.raises(error, match=re.escape(message)):
            check_target(out, embeddings)
        with pytest.raises(error, match=re.escape(message)):
            encode_source(encoder, source, out, embeddings=embeddings)
    assert not new.exists()
