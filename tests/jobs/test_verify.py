"""A bundle proved again: what it counts, and that any altered file, or index, is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mecoq_faiss import VerificationError, export_index, remove, verify
from mecoq_faiss.bundle.folder import read_manifest, write_manifest
from mecoq_faiss.index import load_index, save_index


@pytest.fixture
def bundle(start: Path, tmp_path: Path) -> Path:
    export_index(start / "run-8", start / "photos", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_it_counts_files_and_items(bundle: Path) -> None:
    found = verify(bundle)
    assert (found["files"], found["items"]) == (4, 60) and found["max_score_difference"] < 1e-4
    told = read_manifest(bundle)["verification"]
    assert found["max_score_difference"] == pytest.approx(told["max_score_difference"], abs=1e-5)
    remove(bundle, paths=["a/000.png"])
    assert verify(bundle)["items"] == 59


@pytest.mark.parametrize("name", ["index.faiss", "items.h5", "encoder/config.json", "encoder/model.safetensors"])
def test_an_altered_file_is_named(name: str, bundle: Path) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} differs from the manifest"):
        verify(bundle)
    (bundle / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        verify(bundle)


def test_an_index_of_other_codes_is_told_although_the_manifest_says_it(bundle: Path) -> None:
    shutil.copy(bundle / "index.faiss", bundle.parent / "kept.faiss")
    index = load_index(bundle.parent / "kept.faiss")
    codes = index.sa_encode(-index.reconstruct_n(0, index.ntotal))
    index.reset()
    index.add_sa_codes(codes)
    save_index(index, bundle / "index.faiss")
    manifest = read_manifest(bundle)
    write_manifest(bundle, {name: value for name, value in manifest.items() if name not in ("format", "files")})
    with pytest.raises(VerificationError, match="does not match the model"):
        verify(bundle)
