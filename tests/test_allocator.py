"""Freed memory is kept for the next user within `memory_kept`, and goes back to the system after it."""

from __future__ import annotations

import ctypes
import platform
import resource
from collections.abc import Callable

import pytest
import torch

from mecoq_faiss import allocator
from mecoq_faiss.allocator import memory_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="thresholds are glibc's")
FLOATS = 16 << 20  # 64 MB


def page_faults(work: Callable[[], object], times: int = 10) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def use_memory() -> None:
    torch.ones(FLOATS)


@glibc
def test_memory_is_asked_for_once_within_and_goes_back_afterwards() -> None:
    with memory_kept():
        with memory_kept():
            page_faults(use_memory)  # wherever in the heap it may come to lie
        inside = page_faults(use_memory)  # also after an inner use has ended
        kept = resident_bytes()
    assert resident_bytes() < kept - 2 * FLOATS
    assert 10 * inside < page_faults(use_memory)


@glibc
def test_memory_goes_back_after_an_error_too() -> None:
    @memory_kept()
    def fail() -> None:
        use_memory()
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert allocator._users == 0
    assert page_faults(use_memory, 1) > 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with memory_kept():
        use_memory()
