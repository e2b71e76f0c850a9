"""needing_torch(): where PyTorch is not installed, one line says what needs it and how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = ("torch", "torchvision", "safetensors")  # what only a model itself needs


@contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Imports within, of which a missing PyTorch becomes an ImportError of one line that begins with `what`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise ImportError(
            f"{what} needs PyTorch, and {error.name} is not installed: pip install {' '.join(PACKAGES)}; "
            "a bundle exported with --onnx is searched without it (runtime='onnx')"
        ) from error
