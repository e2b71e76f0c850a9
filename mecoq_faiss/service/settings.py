"""What `serve` is told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 32 << 20  # of a request's body
MAX_PIXELS = 50_000_000  # of an image: what telephones make


@dataclass(frozen=True)
class Settings:
    """Of one service.

    Attributes:
        bundles: their folders, the first the one that is searched by default.
        images: the folder to which the bundles' paths are relative, or None: no pictures are shown.
        api_keys: the file of keys, or None: all may search, none may write.
        workers: processes that decode images; -1: one less than there are cores, at least 1.
        max_pixels, max_bytes: of an image by its header, and of a request's body.
        rate: searches and changes that a client may ask for, such as `60/minute`, or None.
        seconds: the longest that a request may take; a third of it each image.
        waiting: the most queries that wait for their batch.
        device: where the encoder runs.
        runtime: what computes it, `torch` or `onnx`; or `auto`: onnx on a CPU, where a bundle has a graph and
            onnxruntime is installed, for there it is faster (docs/speed.md).
        watch: seconds between looks whether another export has taken a bundle's place.
    """

    bundles: tuple[Path, ...]
    images: Path | None = None
    api_keys: Path | None = None
    workers: int = -1
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    rate: str | None = None
    seconds: float = 30.0
    waiting: int = 512
    device: str = "auto"
    runtime: str = "auto"
    watch: float = 1.0

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ValueError("no bundle: give at least one")
        for name in ("max_pixels", "max_bytes", "seconds", "waiting", "watch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    @property
    def decoders(self) -> int:
        """How many processes decode."""
        return self.workers if self.workers > 0 else max(1, (os.cpu_count() or 1) - 1)
