"""What version 0.1 wrote (in `version_0_1`): read, searched, resumed and exported anew, with equal results."""

import json
import os
import shutil
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from mecoq_faiss import encode, evaluate, export_index, load_encoder, open_bundle, train
from mecoq_faiss.jobs.info import describe
from mecoq_faiss.training.run_folder import RunFolder

KINDS = ("pq", "pqfs", "ivfpq")
WRITTEN = 10**18  # time stamp of features.npy in ns, by which a run knows its data again


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what 0.1 wrote as the working folder: `run` of 4 epochs, `run-stopped` after its second, bundles."""
    folder = shutil.copytree(Path(__file__).with_name("version_0_1"), tmp_path / "old")
    os.utime(folder / "features.npy", ns=(WRITTEN, WRITTEN))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_is_searched_with_equal_results(old: Path, kind: str) -> None:
    found = json.loads((old / "found.json").read_text())[kind]
    queries = np.load("features.npy")[:5] + 0.1
    D, I = faiss.read_index(f"bundle-{kind}/index.faiss").search(load_encoder(f"bundle-{kind}").encode(queries), 4)
    np.testing.assert_array_equal(I, found["I"])
    np.testing.assert_allclose(D, found["D"], atol=1e-6)  # the last bits are the processor's
    with open_bundle(f"bundle-{kind}") as bundle:
        hits = bundle.search(queries, 4)
    assert [[hit.id for hit in row] for row in hits] == found["I"]


def test_a_stopped_run_is_resumed_to_the_same_model(old: Path) -> None:
    train("features.npy", "run-stopped", resume=True)
    names = ("config.json", "split.json")
    assert all((old / "run" / name).read_bytes() == (old / "run-stopped" / name).read_bytes() for name in names)
    model, expected = (load_file(old / name / "model.safetensors") for name in ("run-stopped", "run"))
    assert model.keys() == expected.keys()
    for name, tensor in model.items():  # the last bits are the processor's
        np.testing.assert_allclose(tensor, expected[name], atol=1e-5, err_msg=name)
    again, whole = (RunFolder(old / name).read_metrics() for name in ("run-stopped", "run"))
    assert [record["epoch"] for record in again] == [record["epoch"] for record in whole]


def test_a_run_is_exported_and_encoded_to_the_same_codes(old: Path) -> None:
    export_index("run", "features.npy", "bundle-new")
    assert Path("bundle-new/index.faiss").read_bytes() == Path("bundle-pq/index.faiss").read_bytes()
    encode("run", "features.npy", "new.h5")
    with h5py.File("new.h5") as new, h5py.File("encoded.h5") as before:
        assert new.keys() == before.keys() | {"error", "mtime_ns", "sha256", "size"}
        for name in ("codes", "ids"):
            np.testing.assert_array_equal(new[name], before[name])
        np.testing.assert_allclose(new["embeddings"], before["embeddings"], atol=1e-6)


def test_stored_codes_are_exported_anew(old: Path) -> None:
    manifest = export_index("bundle-pq", None, "bundle-new", codes="encoded.h5", kind="pqfs")
    assert manifest["counts"]["items"] == 60
    assert Path("bundle-new/index.faiss").read_bytes() == Path("bundle-pqfs/index.faiss").read_bytes()


def test_all_are_described(old: Path) -> None:
    assert describe("run")["finished"] and describe("run")["bits"] == 8
    assert describe("bundle-ivfpq")["counts"] == {"items": 60, "source_items": 60, "unreadable": 0}
    assert describe("encoded.h5")["codes"] == "(60, 2) uint8"
    with pytest.raises(ValueError, match="has no labels"):
        evaluate("bundle-pq", "features.npy")
