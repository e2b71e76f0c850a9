"""A process in which torch cannot be imported encodes and searches as one that has it; what needs torch says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mecoq_faiss import export_index, open_bundle
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import ImageSource, open_source

SIDES = (8, 31, 96, 224)
WITHOUT = """
import sys
for name in ("torch", "torchvision", "safetensors", "onnx", "onnxscript"):
    sys.modules[name] = None
"""


def run(code: str, *arguments: object) -> str:
    """The last line that a process without torch prints, on stderr where it fails."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return ((done.stderr if done.returncode else done.stdout).strip().splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def bundle(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("without") / "bundle"
    export_index(digits_run, "digits", path, onnx=True, workers=0)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real ones, and parts of them, in several sizes, shapes and types of files."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, pixels in zip("ab", load_sample_images().images, strict=True):
        image = Image.fromarray(pixels)
        for i, (width, height) in enumerate([(640, 427), (333, 77), (50, 201), (97, 96), (9, 5)]):
            part = image.crop((40 * i, 20 * i, 640, 427)).resize((width, height))
            part.save(folder / f"{name}{i}.jpg", quality=90)
            part.save(folder / f"{name}{i}.png")
    return folder


def test_views_are_equal_bit_for_bit(photographs: Path, tmp_path: Path) -> None:
    code = """
import numpy as np
from pathlib import Path
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.queries import open_image
folder, out, *sides = sys.argv[1:]
np.savez(out, **{s: [fixed_view(open_image(p, int(s)), int(s)) for p in sorted(Path(folder).iterdir())] for s in sides})
print("done")
"""
    assert run(code, photographs, tmp_path / "views.npz", *SIDES) == "done"
    source = open_source(str(photographs), "database")
    assert isinstance(source, ImageSource) and len(source) == 20
    for side, found in np.load(tmp_path / "views.npz").items():
        [batch] = ImageLoader(source, int(side), workers=0).batches([[(row, ()) for row in range(20)]])
        np.testing.assert_array_equal(found, batch.images[:, 0].numpy())


def test_a_bundle_is_searched(bundle: Path, photographs: Path) -> None:
    code = """
import json, mecoq_faiss
bundle = mecoq_faiss.open_bundle(sys.argv[1], runtime="onnx")
encoder = mecoq_faiss.load_encoder(sys.argv[1], runtime="onnx")
found = [hit.path for hits in bundle.search(sys.argv[2:], k=3) for hit in hits]
assert not any(name.startswith("torch") for name in sys.modules if sys.modules[name])
print(json.dumps([found, encoder.encode(sys.argv[2:]).tolist()]))
"""
    import json

    queries = sorted(map(str, photographs.iterdir()))
    found, xq = json.loads(run(code, bundle, *queries))
    with open_bundle(bundle) as opened:
        np.testing.assert_allclose(xq, opened.encoder.encode(queries), atol=1e-5)
        expected = [hit.path for hits in opened.search(queries, k=3) for hit in hits]
    assert np.mean([one == other for one, other in zip(found, expected, strict=True)]) > 0.95  # but for ties


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "mecoq_faiss.load_encoder(path)",
            "runtime='torch' needs PyTorch, and torch is not installed: pip install torch",
        ),
        (
            "mecoq_faiss.open_bundle(path)",
            "runtime='torch' needs PyTorch, and torch is not installed: pip install torch",
        ),
        ("mecoq_faiss.open_bundle(path, runtime='onnx').remove([0])", "removing from a bundle needs PyTorch"),
        ("mecoq_faiss.open_bundle(path, runtime='onnx').add(['a.png'])", "adding to a bundle needs PyTorch"),
        ("mecoq_faiss.train", "mecoq_faiss.train needs PyTorch"),
    ],
)
def test_what_needs_torch_says_how_to_get_it(code: str, line: str, bundle: Path) -> None:
    last = run(f"import mecoq_faiss; path = sys.argv[1]; {code}", bundle)
    assert last.startswith(f"ImportError: {line}")


def test_the_service(bundle: Path, photographs: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    code = """
from pathlib import Path
from starlette.testclient import TestClient
from mecoq_faiss.service.app import create_app
from mecoq_faiss.service.settings import Settings
with TestClient(create_app(Settings((Path(sys.argv[1]),), workers=1))) as client:
    answer = client.post("/search", files={"images": Path(sys.argv[2]).read_bytes()}, data={"k": "3"})
assert not any(name.startswith("torch") for name in sys.modules if sys.modules[name])
print(answer.status_code, len(answer.json()["results"][0]["hits"]))
"""
    assert run(code, bundle, next(photographs.iterdir())) == "200 3"


def test_commands(bundle: Path, photographs: Path) -> None:
    code = "from mecoq_faiss_cli.main import main; main(sys.argv[1:])"
    shown = run(code, "search", bundle, next(photographs.iterdir()), "-k", 3, "--runtime", "onnx")
    assert shown.split()[0] == "3"
    last = run(code, "verify", bundle)
    assert last.startswith("Error: this command needs PyTorch, and torch is not installed: pip install torch")
