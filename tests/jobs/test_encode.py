"""Encoding a source: every row's code, embedding, id, path and label, from a run, a bundle or an encoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mecoq_faiss import ModelConfig, TrainConfig, encode, export_index, load_encoder, train
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.storage.hdf5 import damaged_dataset

N = 50


KNOWN_BY = {"size", "mtime_ns", "sha256", "error"}  # by what an update knows an item again


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x.h5 with paths and labels, a run and a bundle of it."""
    folder = tmp_path_factory.mktemp("encode")
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = np.random.default_rng(0).normal(size=(N, 12)).astype(np.float32)
        file["paths"] = [f"bild-ü-{i}.jpg" for i in range(N)]
        file["labels"] = np.arange(N) % 3
    model = ModelConfig(hidden=8, D=8, M=2, nbits=4)
    train(folder / "x.h5", folder / "run", model, TrainConfig(epochs=1, batch_size=25))
    export_index(folder / "run", folder / "x.h5", folder / "bundle")
    return folder


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: data.asstr()[:] if data.dtype == object else data[:] for name, data in file.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_the_file_holds(work: Path, tmp_path: Path, dtype: str) -> None:
    assert encode(work / "run", work / "x.h5", tmp_path / "codes.h5", embeddings=dtype) == N
    found = read(tmp_path / "codes.h5")
    assert found.keys() == {"codes", "embeddings", "ids", "paths", "labels"} | KNOWN_BY
    assert found["paths"].tolist() == [f"bild-ü-{i}.jpg" for i in range(N)]
    assert (found["labels"] == np.arange(N) % 3).all() and (found["ids"] == np.arange(N)).all()
    assert found["ids"].dtype == np.int64 and found["codes"].dtype == np.uint8 and found["embeddings"].dtype == dtype
    assert damaged_dataset(tmp_path / "codes.h5") is None and os.listdir(tmp_path) == ["codes.h5"]
    encoder = load_encoder(work / "run")
    z = encoder.encode(read(work / "x.h5")["features"])
    np.testing.assert_allclose(found["embeddings"], z, atol=1e-6 if dtype == "float32" else 1e-3)
    with torch.no_grad():
        codebooks = encoder.model.quantizer.unit_codebooks().numpy()  # (M, K, d)
    nearest = np.einsum("nmd,mkd->nmk", z.reshape(N, 2, 4), codebooks).argmax(2)  # Eq. 15
    np.testing.assert_array_equal(found["codes"], nearest)


def test_run_bundle_and_encoder_give_the_same(work: Path, tmp_path: Path) -> None:
    source = open_source(work / "x.h5", "database")
    models: dict[str, Any] = {
        "run": work / "run",
        "bundle": str(work / "bundle"),
        "encoder": load_encoder(work / "run"),
    }
    for name, model in models.items():
        assert encode(model, source, tmp_path / f"{name}.h5") == N
    of_run = read(tmp_path / "run.h5")
    for name in ("bundle", "encoder"):
        for key, values in read(tmp_path / f"{name}.h5").items():
            np.testing.assert_array_equal(values, of_run[key])


def test_without_embeddings_and_of_some_rows(work: Path, tmp_path: Path) -> None:
    rows = [40, 3, 7]
    source = open_source(work / "x.h5", "database").subset(rows)
    assert encode(work / "run", source, tmp_path / "few.h5", embeddings=None) == 3
    encode(work / "run", work / "x.h5", tmp_path / "all.h5", embeddings=None)
    few, every = read(tmp_path / "few.h5"), read(tmp_path / "all.h5")
    assert few.keys() == {"codes", "ids", "paths", "labels"} | KNOWN_BY and few["ids"].tolist() == [0, 1, 2]
    for name in ("codes", "paths", "labels"):
        np.testing.assert_array_equal(few[name], every[name][rows])


def test_refused_before_any_work(work: Path, tmp_path: Path) -> None:
    (tmp_path / "there.h5").write_text("mine")
    with pytest.raises(FileExistsError, match=r"there\.h5"):
        encode(work / "run", work / "x.h5", tmp_path / "there.h5")
    with pytest.raises(ValueError, match="float64"):
        encode(work / "run", work / "x.h5", tmp_path / "codes.h5", embeddings="float64")
    with pytest.raises(ValueError, match="takes features"):
        encode(work / "run", "digits", tmp_path / "codes.h5")
    assert os.listdir(tmp_path) == ["there.h5"] and (tmp_path / "there.h5").read_text() == "mine"
