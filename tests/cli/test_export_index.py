"""`export-index`: what it makes of images, codes and ids, and what it refuses, leaving nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import h5py
import numpy as np

from mecoq_faiss import load_encoder
from mecoq_faiss.index import KINDS
from tests.cli.calls import fails, ok


def test_a_folder_of_odd_images(picture_run: Path, pictures: Path, tmp_path: Path) -> None:
    shown = json.loads(ok("export-index", picture_run, "--data", pictures, "--out", tmp_path / "bundle", "--json"))
    assert shown["counts"] == {"items": 40, "source_items": 41, "unreadable": 1}
    assert shown["verification"]["top_k_agreement"] == 1


def test_it_takes_codes_ids_and_refine(features: Path, tmp_path: Path) -> None:
    run, codes, bundle = tmp_path / "run", tmp_path / "codes.h5", tmp_path / "bundle"
    ok("train", "--data", features, "--out", run, "--nbits", 4, "--epochs", 2, "--batch-size", 128)
    ok("encode", run, "--data", features, "--out", codes)
    x = np.load(features)
    np.save(tmp_path / "ids.npy", np.arange(len(x)) + 5)
    more = ("--nlist", 5, "--nprobe", 2, "--k-factor", 8, "--ids", tmp_path / "ids.npy", "--json")
    shown = json.loads(ok("export-index", run, "--codes", codes, "--out", bundle, "--index", "ivfpqfs", *more))
    assert (shown["nlist"], shown["nprobe"], shown["refine"]) == (5, 2, 8)
    I = faiss.read_index(str(bundle / "index.faiss")).search(load_encoder(bundle).encode(x[:11]), 3)[1]
    assert I.min() >= 5 and I.max() < len(x) + 5
    assert "--codes" in fails("export-index", run, "--out", tmp_path / "neither")


def test_index_kinds_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    call = ("export-index", run, "--data", "digits", "--out", tmp_path / "bundle")
    assert "8" in fails(*call, "--index", "pqfs")
    assert all(f"'{kind}'" in fails(*call, "--index", "hnsw", code=2) for kind in KINDS)
    assert not list(tmp_path.iterdir())


def test_out_that_exists_or_cannot_be_written(run: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "exists" in fails("export-index", run, "--data", "digits", "--out", bundle)
    assert "cannot write" in fails("export-index", run, "--data", "digits", "--out", tmp_path / "file" / "bundle")


def test_not_a_run(tmp_path: Path) -> None:
    assert "not a run" in fails("export-index", tmp_path, "--data", "digits", "--out", tmp_path / "other")


def test_damaged_runs_are_refused(run: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "last.pt", "config.json"):
        copy = Path(shutil.copytree(run, tmp_path / name / "run"))
        (copy / name).write_bytes((copy / name).read_bytes()[:200])
        assert name in fails("export-index", copy, "--data", "digits", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.glob("*.partial"))


def test_ids_that_are_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1 2 3")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1, 2, 3]
    call = ("export-index", run, "--data", "digits", "--out", tmp_path / "bundle", "--ids")
    assert "no file" in fails(*call, tmp_path / "nowhere.npy")
    for name in ("text.npy", "other.h5"):
        message = fails(*call, tmp_path / name)
        assert (
            f"{name} holds no ids" in message
            and "give a .npy file of int64, an .h5 file with ids, or a table" in message
        )
    assert not (tmp_path / "bundle").exists()
