"""What the tests of commands share: data, its run and its bundle, each made by commands; tests only read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.calls import QUICK, ok


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def run(work: Path) -> Path:
    """A run on the digits."""
    ok("train", "--data", "digits", "--out", work / "run", *QUICK)
    return work / "run"


@pytest.fixture(scope="session")
def bundle(work: Path, run: Path) -> Path:
    ok("export-index", run, "--data", "digits", "--out", work / "bundle")
    return work / "bundle"


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "broken"))


@pytest.fixture(scope="session")
def digit_image(work: Path) -> Path:
    from mecoq_faiss.data.sources import ImageSource, open_source

    path = work / "query.png"
    source = open_source("digits", "queries")
    assert isinstance(source, ImageSource)
    source.open(0).save(path)
    return path


@pytest.fixture(scope="session")
def pictures(work: Path) -> Path:
    """Two classes of 20 pictures in the formats that people have, and a broken one."""
    folder = work / "pictures"
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            low = 0 if name == "dark" else 150
            pixels = rng.integers(low, low + 100, (20 + i, 30, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            ending = ("jpg", "png", "webp", "bmp", "gif", "tiff")[i % 6]
            if ending == "png":
                image = image.convert("RGBA" if i % 12 else "P")
            if ending == "jpg" and i % 4 == 0:
                image = image.convert("CMYK")
            image.save(folder / name / f"{i:02}.{ending}")
    (folder / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="session")
def three(work: Path, pictures: Path) -> Path:
    """Three of the pictures."""
    (work / "three").mkdir()
    for path in sorted((pictures / "light").glob("*.png"))[:3]:
        shutil.copy(path, work / "three")
    return work / "three"


@pytest.fixture(scope="session")
def picture_run(work: Path, pictures: Path) -> Path:
    ok("train", "--data", pictures, "--out", work / "picture-run", *QUICK[:6], "--batch-size", 16, "--bits", 16)
    return work / "picture-run"


@pytest.fixture(scope="session")
def picture_bundle(work: Path, picture_run: Path, pictures: Path) -> Path:
    ok("export-index", picture_run, "--data", pictures, "--out", work / "picture-bundle")
    return work / "picture-bundle"


@pytest.fixture(scope="session")
def three_bundle(work: Path, picture_run: Path, three: Path) -> Path:
    ok("export-index", picture_run, "--data", three, "--out", work / "three-bundle")
    return work / "three-bundle"


@pytest.fixture(scope="session")
def features(work: Path) -> Path:
    """A file of 600 vectors of width 24."""
    np.save(work / "x.npy", np.random.default_rng(0).normal(size=(600, 24)).astype(np.float32))
    return work / "x.npy"


@pytest.fixture(scope="session")
def feature_run(work: Path, features: Path) -> Path:
    ok("train", "--data", features, "--out", work / "feature-run", "--epochs", 2, "--batch-size", 128)
    return work / "feature-run"


@pytest.fixture(scope="session")
def feature_bundle(work: Path, feature_run: Path, features: Path) -> Path:
    ok("export-index", feature_run, "--data", features, "--out", work / "feature-bundle")
    return work / "feature-bundle"
