"""`encode`: codes and embeddings are those of the bundle; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import h5py
import numpy as np

from tests.cli.calls import fails, ok


def test_it_agrees_with_the_bundle(run: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.h5"
    assert json.loads(ok("encode", run, "--data", "digits", "--out", out, "--json"))["items"] == 1500
    with h5py.File(out) as encoded, h5py.File(bundle / "items.h5") as items:
        np.testing.assert_array_equal(encoded["codes"][:], items["codes"][:])
        norms = np.linalg.norm(encoded["embeddings"][:].astype(np.float32).reshape(1500, 4, -1), axis=-1)
        np.testing.assert_allclose(norms, 1, atol=1e-3)
    index = faiss.read_index(str(bundle / "index.faiss"))
    with h5py.File(out) as encoded:
        codes = index.sa_encode(encoded["embeddings"][:].astype(np.float32))
        assert (codes == encoded["codes"][:]).mean() > 0.99  # float16 moves a few across a border


def test_features_of_another_width(run: Path, feature_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((300, 25), np.float32))
    assert "takes images" in fails("encode", run, "--data", tmp_path / "wide.npy", "--out", tmp_path / "wide.h5")
    message = fails("encode", feature_run, "--data", tmp_path / "wide.npy", "--out", tmp_path / "wide.h5")
    assert "width 25" in message and "24" in message
    assert not (tmp_path / "wide.h5").exists()


def test_out_that_exists_or_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "exists" in fails("encode", run, "--data", "digits", "--out", tmp_path / "file")
    assert "cannot write" in fails("encode", run, "--data", "digits", "--out", tmp_path / "file" / "codes.h5")
    assert (tmp_path / "file").read_text() == "mine"
