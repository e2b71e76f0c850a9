"""The report on this machine says what the packages say of themselves."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata

import faiss
import numpy as np
import pytest
import torch

from mecoq_faiss.runtime import environment as module
from mecoq_faiss.runtime.environment import PACKAGES, environment


def test_versions_and_threads_are_the_packages_own() -> None:
    found = environment()
    assert (found["python"], found["numpy"], found["faiss"]) == (
        platform.python_version(), np.__version__, faiss.__version__
    )  # fmt: skip
    assert found["torch"] == metadata.version("torch")
    assert (found["torch_threads"], found["faiss_threads"]) == (torch.get_num_threads(), faiss.omp_get_max_threads())
    assert found["cores"] == os.cpu_count() and set(PACKAGES) < found.keys()
    assert json.loads(json.dumps(found)) == found  # as `doctor --json` prints it


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-package"))
    found = environment()
    assert found["no-such-package"] == "not installed" and found["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("wheels", "listed"),
    [({}, "none"), ({"faiss-cpu": "1.9"}, "faiss-cpu 1.9"), ({"faiss-cpu": "1.9", "faiss-gpu": "1.7"}, None)],
)
def test_wheels_and_problems(wheels: dict[str, str], listed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_wheels", lambda: wheels)
    monkeypatch.setattr(module, "shared_environment", lambda: "two wheels" if len(wheels) > 1 else None)
    found = environment()
    assert found["faiss_wheels"] == (listed or "faiss-cpu 1.9, faiss-gpu 1.7")
    assert found["problems"] == ("none" if listed else "two wheels")


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    assert environment()["torch_gpus"] == "GPU 0, GPU 1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment()["torch_gpus"] == 0
