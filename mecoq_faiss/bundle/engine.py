"""Engine: what does the parts of a job in other processes than this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mecoq_faiss.bundle.encoded import Encoding
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.storage.shards import Shards


class Engine(Protocol):
    """Many processes that see the same files; what they make is what this process alone would make."""

    def write_shards(self, encoding: Encoding, shards: Shards, missing: list[int]) -> dict[int, Path]:
        """Write the missing shards of an encoded file; gives their paths by number."""

    def build_bundles(self, encoder: TorchEncoder, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Call `build_bundle` with the arguments of each task; gives what each returned."""
