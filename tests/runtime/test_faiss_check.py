"""What stands in the way of FAISS is one line with its mend; what merely could is a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import faiss
import pytest

from mecoq_faiss.runtime import faiss_check

BOTH = {"faiss-cpu": "1.9.0", "faiss-gpu": "1.15.1"}
CPU_ONLY = types.ModuleType("faiss")
CPU_ONLY.IndexPQ = faiss.IndexPQ  # type: ignore[attr-defined]
WITH_GPU = types.ModuleType("faiss")
WITH_GPU.IndexPQ = WITH_GPU.StandardGpuResources = faiss.IndexPQ  # type: ignore[attr-defined]


def pretend(monkeypatch: pytest.MonkeyPatch, wheels: dict[str, str], imported: object) -> None:
    def version(name: str) -> str:
        if name in wheels:
            return wheels[name]
        raise metadata.PackageNotFoundError(name)

    def import_module(name: str) -> object:
        if isinstance(imported, Exception):
            raise imported
        return imported

    faiss_check._warn.cache_clear()
    monkeypatch.setattr(faiss_check.metadata, "version", version)
    monkeypatch.setattr(faiss_check, "import_module", import_module)


@pytest.mark.parametrize(
    ("wheels", "imported", "message"),
    [
        ({}, ModuleNotFoundError("No module", name="faiss"), "FAISS is missing: run `pip install faiss-cpu`"),
        ({}, ModuleNotFoundError("No module", name="packaging"), "pip install packaging"),
        ({"faiss-gpu": "1.15.1"}, ImportError("libcudart.so.12"), "libcudart.*--no-deps faiss-gpu`"),
        ({"faiss-gpu": "1.15.1"}, types.ModuleType("faiss"), "partly installed.*faiss-gpu`"),
        ({"faiss-cpu": "1.15.1"}, ModuleNotFoundError("No", name="faiss.loader"), "partly.*--no-deps faiss-cpu`"),
        ({"faiss-cpu": "1.15.1"}, AttributeError("no IndexPQ_swigregister\n"), "swigregister\\): .*faiss-cpu`"),
        (BOTH, ImportError("undefined symbol"), "undefined symbol.*two wheels.*pip uninstall -y faiss-cpu faiss-gpu`"),
        (BOTH, AttributeError("no IndexPQ_swigregister"), "does not import.*two wheels.*pip uninstall -y faiss-cpu"),
        (BOTH, types.ModuleType("faiss"), "partly installed: two wheels.*pip uninstall -y faiss-cpu faiss-gpu`"),
        (
            BOTH,
            ModuleNotFoundError("No module", name="faiss"),
            "FAISS is missing: two wheels.*pip uninstall -y faiss-cpu faiss-gpu`",
        ),
        ({"faiss-gpu": "1"}, ModuleNotFoundError("No module", name="faiss"), "is missing: .*--no-deps faiss-gpu`"),
    ],
)
def test_check_faiss_names_the_mend(
    monkeypatch: pytest.MonkeyPatch, wheels: dict[str, str], imported: object, message: str
) -> None:
    pretend(monkeypatch, wheels, imported)
    with pytest.raises(ImportError, match=message) as caught:
        faiss_check.check_faiss()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wheels", [{"faiss-cpu": "1.15.1"}, {}], ids=["wheel", "own build"])
def test_check_faiss_accepts_one(monkeypatch: pytest.MonkeyPatch, wheels: dict[str, str]) -> None:
    pretend(monkeypatch, wheels, CPU_ONLY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faiss_check.check_faiss()
    assert faiss_check.shared_environment() is None
    assert faiss_check.installed_wheels() == wheels


@pytest.mark.parametrize(
    ("wheels", "imported", "hidden"),
    [
        (BOTH, CPU_ONLY, True),
        (BOTH, WITH_GPU, False),
        ({"faiss-cpu": "1.15.1", "faiss-gpu-cuvs": "1.15.1"}, CPU_ONLY, True),
    ],
)
def test_two_wheels_that_work_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, wheels: dict[str, str], imported: object, hidden: bool
) -> None:
    pretend(monkeypatch, wheels, imported)
    with pytest.warns(UserWarning, match="two FAISS wheels in one environment") as caught:
        faiss_check.check_faiss()
    (said,) = (str(warning.message) for warning in caught)
    assert "\n" not in said and f"`pip uninstall -y {' '.join(wheels)}`, then `pip install` the one you want" in said
    assert ("the GPU's symbols are hidden" in said) == hidden


def test_beside_a_package_that_brings_another_wheel(tmp_path: Path) -> None:
    """As pip leaves it: a second wheel's metadata on the path, one FAISS that works."""
    for name in BOTH:
        info = tmp_path / f"{name.replace('-', '_')}-1.15.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = "from mecoq_faiss_cli.main import main; main(['doctor', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: two FAISS wheels in one environment (faiss-cpu 1.15.1, faiss-gpu") == 1
    assert json.loads(done.stdout)["problems"].startswith("two FAISS wheels")


def test_simd_level_is_named():
    assert faiss_check.simd_level().strip() == faiss_check.simd_level() != ""


def test_the_instruction_set_of_a_faiss_that_was_built_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older one, without SIMDConfig."""
    old = types.SimpleNamespace(get_compile_options=lambda: "OPTIMIZE AVX2 ")
    monkeypatch.setattr(faiss_check, "import_module", lambda name: old)
    assert faiss_check.simd_level() == "OPTIMIZE AVX2"
