"""A small collection and runs on it, which tests of update, add and remove share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mecoq_faiss import ModelConfig, TrainConfig, train
from tests.jobs.living import picture


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of 60 pictures in two classes, and runs of 8 and 4 bits."""
    folder = tmp_path_factory.mktemp("living")
    for i in range(60):
        path = folder / "photos" / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    for nbits in (8, 4):
        model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=16, nbits=nbits)
        config = TrainConfig(epochs=1, batch_size=20, cached_views=2)
        train(folder / "photos", folder / f"run-{nbits}", model, config)
    return folder


@pytest.fixture
def living(start: Path, tmp_path: Path) -> Path:
    """A copy of it to change, as the working folder would be."""
    shutil.copytree(start / "photos", tmp_path / "photos")
    return tmp_path
