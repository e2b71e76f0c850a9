"""Images, tars and files of features for the tests of this room."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss.data.sources import open_source

PATHS = ("bird/x y é.png", "cat/deep/c.png", "dog/a.PNG", "dog/b.png")


def noise(height: int = 12, width: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(4, 5, seed=seed)).save(path)


def pack(folder: Path, ending: str) -> Path:
    path = folder.with_name(f"photos{ending}")
    mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}[ending]
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=".")
    return path


def write_h5(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key, data=value)
    return path


def make(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(src, error=ValueError, split="train") -> str:
    with pytest.raises(error) as caught:
        open_source(src, split)
    message = str(caught.value)
    assert "\n" not in message
    return message
