"""The whole doctor job: what this machine has, and what stands in the way."""

from __future__ import annotations

from typing import Any

from mecoq_faiss.runtime.environment import environment


def doctor() -> dict[str, Any]:
    """Versions, FAISS wheels, GPUs, threads, SIMD level of this machine; problems are named."""
    return environment()
