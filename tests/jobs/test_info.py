"""What a path is said to be, and the lists to choose from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, encode, export_index, index, train
from mecoq_faiss.index import describe_index, load_index
from mecoq_faiss.jobs.info import KINDS, describe, describe_presets
from mecoq_faiss.presets import PRESETS


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("info")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32))
    model = ModelConfig(hidden=8, D=8, M=2, nbits=4)
    train(folder / "x.npy", folder / "run", model, TrainConfig(epochs=2, batch_size=25))
    export_index(folder / "run", folder / "x.npy", folder / "bundle", kind="pqfs")
    encode(folder / "run", folder / "x.npy", folder / "codes.h5")
    return folder


def test_a_run(work: Path, tmp_path: Path) -> None:
    found = describe(work / "run")
    last = json.loads((work / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found == {
        "type": "run", "backbone": "features", "bits": 8, "M": 2, "nbits": 4, "D": 8, "codes": "product",
        "epochs": "2 of 2", "finished": True, "codeword_usage": last["codeword_usage"],
        "codeword_similarity": last["codeword_similarity"],
    }  # fmt: skip
    run = shutil.copytree(work / "run", tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:4]))  # 2 steps, epoch 1, a step
    assert [describe(run)[name] for name in ("epochs", "finished")] == ["1 of 2", False]
    (run / "metrics.jsonl").write_text("".join(lines).replace("codeword_usage", "codeword_usagd"))
    assert describe(run)["epochs"] == "2 of 2" and "codeword_usage" not in describe(run)
    (run / "metrics.jsonl").unlink()
    assert describe(run)["epochs"] == "0 of 2" and "codeword_usage" not in describe(run)


def test_a_bundle_and_its_index(work: Path) -> None:
    manifest = json.loads((work / "bundle" / "manifest.json").read_text())
    found = describe(str(work / "bundle"))
    files = manifest.pop("files")
    assert found == {"type": "bundle", **manifest, "bytes": sum(entry["bytes"] for entry in files.values())}
    assert found["bytes"] == sum((work / "bundle" / name).stat().st_size for name in files)
    path = work / "bundle" / "index.faiss"
    assert describe(path) == {"type": "index", **describe_index(load_index(path))}
    assert (describe(path)["kind"], describe(path)["n"]) == ("pqfs", 50)


def test_an_encoded_file_and_one_of_features(work: Path, tmp_path: Path) -> None:
    found = describe(work / "codes.h5")
    assert found == {
        "type": "encoded", "codes": "(50, 2) uint8", "embeddings": "(50, 8) float16", "ids": "(50,) int64",
        "paths": "(50,) object", "size": "(50,) int64", "mtime_ns": "(50,) int64", "sha256": "(50, 32) uint8",
        "error": "(50,) float32",
    }  # fmt: skip
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.ones((3, 4), np.float32)
    assert describe(tmp_path / "x.h5") == {"type": "features", "features": "(3, 4) float32"}


def test_paths_that_are_none_of_these(work: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere does not exist: give a run, a bundle, an index or an \.h5 file"
    ):
        describe(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        describe(tmp_path)
    with pytest.raises(ValueError, match="no FAISS index"):
        describe(work / "x.npy")
    (tmp_path / "cut.h5").write_bytes((work / "codes.h5").read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.h5 is damaged .*: write it again"):
        describe(tmp_path / "cut.h5")
    faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "flat.faiss"))
    with pytest.raises(ValueError, match=r"IndexFlat\w* is no product-quantized index"):
        describe(tmp_path / "flat.faiss")


def test_there_is_a_line_for_each_preset_and_kind() -> None:
    assert tuple(KINDS) == index.KINDS and list(describe_presets()) == list(PRESETS)
    lines = describe_presets()
    assert lines["release-nuswide-64"] == (
        "the paper's public release, 64 bits: vgg16 at 224 px (frozen), D=128, temperature 0.4, 50 epochs of SGD"
    )
    assert lines["cifar10-ii-32"].startswith(
        "the paper, 32 bits: vgg16 at 224 px (2 layers learn), D=48, temperature 0.35"
    )
