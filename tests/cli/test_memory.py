"""The command's process keeps freed memory where glibc can; the library never touches its host's allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mecoq_faiss_cli.memory import SINCE, keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from mecoq_faiss import train
if sys.argv[1] == "kept":
    from mecoq_faiss_cli.memory import keep_freed_memory
    assert keep_freed_memory()
def work():
    np.ones(16 << 20, np.float32)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def version() -> tuple[int, ...]:
    name, number = platform.libc_ver()
    return tuple(int(part) for part in number.split(".")[:2]) if name == "glibc" else (0,)


@pytest.mark.skipif(version() < SINCE, reason="thresholds are glibc's, from 2.35 on")
def test_memory_is_asked_for_once() -> None:
    assert 10 * faults("kept") < faults("imported only")


@pytest.mark.parametrize("says", ["glibc 2.34", "musl 1.2", ""])
def test_other_c_libraries_are_left_alone(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: says)
    assert not keep_freed_memory()
