"""An encoder written as a graph, beside a bundle and in it, where every change of the bundle keeps it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss import (
    VerificationError,
    add,
    export_encoder,
    export_index,
    load_encoder,
    merge,
    open_bundle,
    remove,
    split,
    update,
    verify,
)
from mecoq_faiss.bundle.folder import ONNX, read_manifest, write_manifest
from mecoq_faiss.storage.files import sha256
from tests.jobs.living import picture


@pytest.fixture(scope="module")
def exported(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph") / "bundle"
    export_index(start / "run-8", start / "photos", folder, onnx=True, workers=0)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def check_graph(bundle: Path) -> None:
    """It is there, listed as any file, and the model's."""
    entry = read_manifest(bundle)["files"][ONNX]
    assert entry == {"bytes": (bundle / ONNX).stat().st_size, "sha256": sha256(bundle / ONNX)}
    assert verify(bundle)["max_onnx_difference"] < 1e-4


def test_a_file_of_its_own(start: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.onnx"
    shown = export_encoder(start / "run-8", out)
    assert shown.pop("max_difference") < 1e-5
    assert shown == {"file": str(out), "bytes": out.stat().st_size, "input": [3, 8, 8], "d": 16}
    images = [picture(i) for i in range(5)]
    expected = load_encoder(bundle).encode(images)
    np.testing.assert_allclose(load_encoder(out, runtime="onnx").encode(images), expected, atol=1e-5)
    with pytest.raises(FileExistsError, match=r"run\.onnx exists: choose another --out"):
        export_encoder(bundle, out)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        export_encoder(tmp_path / "nowhere", tmp_path / "x.onnx")


def test_changes_of_a_bundle_keep_it(bundle: Path, living: Path, tmp_path: Path) -> None:
    check_graph(bundle)
    assert read_manifest(bundle)["format"] == 1  # who does not know the file does without
    picture(99).save(living / "photos" / "a" / "new.png")
    update(bundle, living / "photos")
    check_graph(bundle)
    picture(100).save(tmp_path / "another.png")
    add(bundle, [tmp_path / "another.png"])
    remove(bundle, paths=["a/000.png"])
    check_graph(bundle)
    split(bundle, tmp_path / "parts", 2)
    for part in ("part-1", "part-2"):
        check_graph(tmp_path / "parts" / part)
    merge([tmp_path / "parts" / "part-1", tmp_path / "parts" / "part-2"], tmp_path / "whole")
    check_graph(tmp_path / "whole")
    with open_bundle(tmp_path / "whole", runtime="onnx") as opened:
        [[hit]] = opened.search(picture(99), 1)
        assert hit.path == "a/new.png"


def test_the_graph_of_another_model_is_told_although_the_manifest_lists_it(
    bundle: Path, start: Path, tmp_path: Path
) -> None:
    graph = (bundle / ONNX).read_bytes()
    weights = np.frombuffer(graph, np.uint8).copy()
    weights[-len(weights) // 3 :][::4] ^= 16  # low bits of floats
    (bundle / ONNX).write_bytes(weights.tobytes())
    with pytest.raises(ValueError, match=r"encoder\.onnx differs from the manifest"):
        verify(bundle)
    manifest = read_manifest(bundle)
    kept = {name: value for name, value in manifest.items() if name not in ("format", "files")}
    write_manifest(bundle, kept, manifest["files"])
    with pytest.raises((VerificationError, ValueError), match=r"ONNX graph does not compute|cannot be read"):
        verify(bundle)
