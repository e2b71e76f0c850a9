"""The public names: all there, imported only when asked for, and FAISS looked at before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mecoq_faiss


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_the_package_gives_its_names() -> None:
    assert set(mecoq_faiss.__all__) <= set(dir(mecoq_faiss))
    for name in mecoq_faiss.__all__:
        value = getattr(mecoq_faiss, name)
        assert callable(value)  # `train` and its like are functions, not modules
    with pytest.raises(AttributeError, match="'mecoq_faiss' has no attribute 'trian'"):
        mecoq_faiss.trian  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("module", ["", ".index", ".index.tuner", ".evaluation", ".storage.files"])
def test_what_needs_no_torch_loads_none(module: str) -> None:
    done = run(f"import mecoq_faiss{module}, sys; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import mecoq_faiss.index",
        "import mecoq_faiss.index.tuner",
        "import mecoq_faiss.baselines.baseline",
        "import mecoq_faiss.comparison.contenders",
        "from mecoq_faiss import train",
        "import mecoq_faiss.jobs.doctor",
    ],
)
def test_a_broken_faiss_is_named_before_it_is_needed(tmp_path: Path, code: str) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError('libcudart.so.12')\n")
    last = run(code, tmp_path).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FAISS is installed but does not import (libcudart.so.12): run `pip install")
