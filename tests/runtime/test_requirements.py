"""What is required, less some of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mecoq_faiss.runtime.requirements import requirements


def names(lines: list[str]) -> list[str]:
    return [re.split(r"[^\w.-]", line)[0] for line in lines]


def test_the_package_and_its_extras_are_those_of_setup() -> None:
    own = names(requirements())
    assert {"torch", "numpy", "h5py", "faiss-gpu", "faiss-cpu"} <= set(own) and "fastapi" not in own
    with_extras = requirements(["serve", "onnx"])
    assert set(names(with_extras)) - set(own) >= {"fastapi", "uvicorn", "onnxruntime"}
    assert not any("extra" in line for line in with_extras)
    assert any("sys_platform" in line for line in with_extras if line.startswith("faiss"))


def test_some_are_left_out() -> None:
    left = names(requirements(["onnx"], ["torch", "torchvision", "safetensors", "faiss"]))
    assert not {"torch", "torchvision", "safetensors", "faiss-gpu", "faiss-cpu"} & set(left) and "onnxruntime" in left
    with pytest.raises(ValueError, match=r"no extra .nothing.: there are .*serve"):
        requirements(["nothing"])


def test_the_dockerfile_s_command() -> None:
    text = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"python -m (mecoq_faiss\.runtime\.requirements [^>]*)>", text)
    assert found
    done = subprocess.run([sys.executable, "-m", *found[1].split()], capture_output=True, text=True, check=True)
    assert "torch" not in names(done.stdout.splitlines()) and "fastapi" in done.stdout
