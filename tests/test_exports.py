"""The public names: which they are, what importing them loads, and that their examples run."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

import mecoq_faiss

NAMES = [
    "Bundle",
    "Duplicate",
    "Encoder",
    "FeatureSource",
    "Hit",
    "ImageSource",
    "InUseError",
    "Interrupted",
    "MeCoQ",
    "ModelConfig",
    "TorchEncoder",
    "TrainConfig",
    "TrainingError",
    "UnreadableImage",
    "VerificationError",
    "add",
    "compare",
    "dedup",
    "encode",
    "evaluate",
    "export_encoder",
    "export_index",
    "export_items",
    "load_encoder",
    "merge",
    "open_bundle",
    "open_source",
    "register_backbone",
    "remove",
    "search",
    "split",
    "train",
    "tune",
    "update",
    "verify",
]
FUNCTIONS = [name for name in NAMES if name.islower()]
ERRORS = {
    "InUseError": OSError,
    "Interrupted": RuntimeError,
    "TrainingError": RuntimeError,
    "UnreadableImage": ValueError,
    "VerificationError": RuntimeError,
}


def test_the_public_names() -> None:
    assert mecoq_faiss.__all__ == NAMES and set(NAMES) <= set(dir(mecoq_faiss))
    for name in NAMES:
        value = getattr(mecoq_faiss, name)
        assert value.__name__ == name and value.__module__.startswith("mecoq_faiss.")
        assert (inspect.isfunction if name in FUNCTIONS else inspect.isclass)(value), name
    for name, base in ERRORS.items():
        assert getattr(mecoq_faiss, name).__base__ is base
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        _ = mecoq_faiss.serch  # type: ignore[attr-defined]


def test_functions_stay_functions_whatever_is_imported() -> None:
    """No module takes the place of a function of the same name."""
    modules = [
        ".".join(path.relative_to(Path(mecoq_faiss.__file__).parents[1]).with_suffix("").parts)
        for path in Path(mecoq_faiss.__file__).parent.rglob("*.py")
        if path.name != "__init__.py"
    ]
    code = f"""
import contextlib, importlib, inspect, mecoq_faiss
for name in {modules}:
    with contextlib.suppress(ModuleNotFoundError):  # of an extra that is not installed
        importlib.import_module(name)
assert all(inspect.isfunction(getattr(mecoq_faiss, name)) for name in {FUNCTIONS})
"""
    assert "mecoq_faiss.jobs.search" in modules
    run(code)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "\nimport sys; print(sorted({'torch', 'faiss', 'h5py', 'sklearn'} & set(sys.modules)))"


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import mecoq_faiss; dir(mecoq_faiss)", []),
        ("from mecoq_faiss import ModelConfig, TrainConfig", []),
        ("from mecoq_faiss import InUseError", []),
        ("from mecoq_faiss import FeatureSource, UnreadableImage, open_source", ["h5py"]),
        ("from mecoq_faiss.index import build_index", ["faiss"]),
        ("from mecoq_faiss.evaluation import mean_average_precision", []),
    ],
)
def test_what_an_import_loads(statement: str, loaded: list[str]) -> None:
    assert run(statement + HEAVY).strip() == str(loaded)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples find: `run`, `bundle` of the digits, `photos`, bundles of them, `query.png`, `features.npy`.

    In `photos-twice` one of the photos is there twice.
    """
    folder = tmp_path_factory.mktemp("home")
    model = mecoq_faiss.ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=64, D=16)
    config = mecoq_faiss.TrainConfig(epochs=2, cached_views=2, workers=0)
    mecoq_faiss.train("digits", folder / "run", model, config)
    mecoq_faiss.export_index(folder / "run", "digits", folder / "bundle", workers=0)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(folder / "photos" / f"{i}.png")
    (folder / "query.png").write_bytes((folder / "photos" / "3.png").read_bytes())
    for name in ("bundle-photos", "bundle-living", "bundle-shrinking"):
        mecoq_faiss.export_index(folder / "run", folder / "photos", folder / name, workers=0)
    shutil.copytree(folder / "photos", folder / "photos-twice")
    shutil.copy(folder / "photos" / "0.png", folder / "photos-twice" / "copy.png")
    mecoq_faiss.export_index(folder / "run", folder / "photos-twice", folder / "bundle-twice", workers=0)
    mecoq_faiss.split(folder / "bundle-photos", folder / "split", parts=2)
    for number in (1, 2):
        (folder / "split" / f"part-{number}").rename(folder / f"bundle-half-{number}")
    np.save(folder / "features.npy", rng.normal(size=(50, 32)).astype(np.float32))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    documented = inspect.getdoc(getattr(mecoq_faiss, name)) or ""
    assert documented.count("Example:\n    >>> ") == 1
    test = doctest.DocTestParser().get_doctest(documented, {"faiss": faiss, "torch": torch}, name, None, None)
    said: list[str] = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert 2 <= result.attempted <= 4 and not result.failed, "".join(said)
