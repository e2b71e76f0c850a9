"""The whole doctor job: what this machine has, and what stands in the way."""

from __future__ import annotations

from typing import Any

from mecoq_faiss.runtime.cache import cache_folder
from mecoq_faiss.runtime.environment import PACKAGES, environment
from mecoq_faiss.runtime.risks import risks


def doctor() -> dict[str, Any]:
    """Versions, FAISS wheels, GPUs, threads, SIMD level of this machine; problems are named.

    `warnings` is a list of what makes results unrepeatable, or files unsafe, each with its mend.
    """
    return environment() | {"warnings": risks(cache_folder(), PACKAGES)}
