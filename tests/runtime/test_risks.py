"""Each risk is told where it is, in one line with its mend, and nothing is told where there is none."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mecoq_faiss.runtime import risks as module
from mecoq_faiss.runtime.risks import KERNELS, file_system, openmp_runtimes, risks


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any risk."""
    for name in (*KERNELS, "KMP_DUPLICATE_LIB_OK", "LD_PRELOAD", "TMPDIR", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(os, "umask", lambda mask: 0o022)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**11))
    monkeypatch.setattr(module, "openmp_runtimes", lambda: ["libgomp"])
    monkeypatch.setattr(module, "file_system", lambda folder: "ext4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "temporary").mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "cache"


def test_a_sound_machine_has_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert risks(cache, ("numpy", "no-such-package")) == []
    assert risks(cache / "not" / "there") == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert risks(cache) == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KMP_DUPLICATE_LIB_OK", "TRUE", "hides that two OpenMP runtimes"),
        ("LD_PRELOAD", "/lib/x.so", "LD_PRELOAD=/lib/x.so"),
        ("TMPDIR", "/no/such", "TMPDIR=/no/such is no folder"),
        *((name, "1", f"{name}=1 chooses other kernels") for name in KERNELS),
    ],
)
def test_the_environment(name: str, value: str, says: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    (line,) = risks(cache)
    assert says in line and "\n" not in line
    monkeypatch.setenv(name, "")
    assert risks(cache) == []


def test_threads_that_follow_the_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    (line,) = risks(cache)
    assert "OMP_NUM_THREADS is not set and there are 64 cores" in line


def test_two_kinds_of_openmp(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "openmp_runtimes", lambda: ["libgomp", "libiomp5"])
    (line,) = risks(cache)
    assert line.startswith("libgomp and libiomp5 are loaded together")


def test_kinds_of_openmp_are_read_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "libgomp-e985.so.1.0.0", "libgomp.so.1", "libiomp5.so", "libomptarget.so", "libc.so.6"
    lines = "\n".join(f"7f00 r-xp 0 08:01 1  /lib/{name}" for name in names)
    monkeypatch.setattr(Path, "read_text", lambda path: lines)
    assert openmp_runtimes() == ["libgomp", "libiomp5"]


def test_a_gpu_that_is_not_exact(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert risks(cache) == []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    (line,) = risks(cache)
    assert "TF32" in line
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    by_timing, order = risks(cache)
    assert "cudnn.benchmark" in by_timing and "use_deterministic_algorithms" in order


@pytest.mark.parametrize("version", ["2.14.0.dev20260101+cpu", "2.14.0a0+git1234", "1.0rc1"])
def test_versions_that_are_no_releases(version: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    (line,) = risks(cache, ("torch",))
    assert line.startswith(f"torch {version} is no release")
    monkeypatch.setattr(metadata, "version", lambda name: "2.14.1+cu130.post1")
    assert risks(cache, ("torch",)) == []


def test_the_process(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "umask", lambda mask: 0o000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    root, mask, files = risks(cache)
    assert "as root" in root and "umask 000" in mask and "256 files" in files


def test_folders(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.chmod(0o777)
    (line,) = risks(cache)
    assert f"everybody can write into the cache {cache}" in line
    cache.chmod(0o1777)
    assert risks(cache / "own") == [] and len(risks(cache)) == 1, "the sticky bit protects a folder within"
    cache.chmod(0o755)
    temporary = Path(tempfile.gettempdir())
    temporary.chmod(0o777)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 10**6))
    exchange, room = risks(cache)
    assert "others can exchange files" in exchange and "5 MB left" in room


@pytest.mark.parametrize(("kind", "says"), [("nfs4", "locks and renames"), ("tmpfs", "gone at the next start")])
def test_file_systems(kind: str, says: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "file_system", lambda folder: kind)
    (line,) = risks(cache)
    assert says in line


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    inner = tmp_path / "with space"
    inner.mkdir()
    mounts = tmp_path / "mounts"
    named = str(inner).replace(" ", "\\040")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nhost:/x {named} nfs4 rw 0 0\nnone {tmp_path}/wi tmpfs rw 0 0\n")
    assert file_system(inner / "deeper", mounts) == "nfs4" and file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "none") == ""
