"""A million rows, and many images, through the whole encoding job: memory and open files stay flat."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from benchmarks.soak.gauge import Gauge
from benchmarks.speed.measure import peak_of
from mecoq_faiss import ModelConfig, TrainConfig, encode, load_encoder, train
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import FeatureSource, ImageSource, open_source

ROWS, IMAGES = 1_000_000, 1_000_000
WIDTH, SIDE = 16, 8
SAMPLES = 500


class MadeUp:
    """A store of as many images as one likes, each made when it is asked for."""

    def __init__(self, n: int) -> None:
        self.names = tuple(f"folder-{i // 1000:04}/{i:07}.png" for i in range(n))

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        return Image.fromarray(np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))

    def stamp(self, i: int) -> bytes:
        return b""

    def digest(self, i: int) -> bytes:
        return hashlib.sha256(i.to_bytes(8, "little")).digest()

    def size_and_time(self, i: int) -> tuple[int, int]:
        return 3 * SIDE * SIDE, 0


class Gauged(TorchEncoder):
    """An encoder that has the gauge read now and then; `n` is how many rows it is going to see."""

    def __init__(self, encoder: TorchEncoder, n: int) -> None:
        super().__init__(encoder.model, "cpu")
        self.gauge, self.done, self.every = Gauge(), 0, max(1, n // SAMPLES)

    def encode_batch(self, batch: Any) -> np.ndarray:
        before, self.done = self.done, self.done + len(batch)
        if before // self.every != self.done // self.every:
            self.gauge.sample(self.done)
        return super().encode_batch(batch)


def run(folder: Path, rows: int = ROWS, images: int = IMAGES, workers: int = 1) -> dict[str, Any]:
    """What encoding rows of features, and made-up images, takes as it goes on."""
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((1000, WIDTH), np.float32))
    small = ModelConfig(backbone="features", weights="none", feature_dim=WIDTH, M=4, D=32, hidden=32)
    train(folder / "x.npy", folder / "of-features", small, TrainConfig(epochs=1, batch_size=200))
    pixels = ModelConfig(backbone="pixels", image_size=SIDE, M=4, D=32, hidden=32)
    config = TrainConfig(epochs=1, batch_size=200, cached_views=2)
    train(_images(400), folder / "of-images", pixels, config)
    many = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, 1 << 16):
        block = many[start : start + (1 << 16)]
        block[:] = np.random.default_rng(start).standard_normal(block.shape, np.float32)
    del many
    return {
        "features": _encode(folder / "of-features", open_source(folder / "rows.npy", "database"), folder, 0),
        "images": _encode(folder / "of-images", _images(images), folder, workers),
    }


def _images(n: int) -> ImageSource:
    store = MadeUp(n)
    return ImageSource(f"{n} images", store.names, None, (), None, store, np.arange(n))


def _encode(model: Path, source: ImageSource | FeatureSource, folder: Path, workers: int) -> dict[str, Any]:
    encoder = Gauged(load_encoder(model, "cpu"), len(source))
    out = folder / f"{source.kind}.h5"
    _, peak = peak_of(lambda: encode(encoder, source, out, embeddings=None, workers=workers))
    with h5py.File(out) as file:
        n = len(file["codes"])
        assert n == len(source) and (file["ids"][:] == np.arange(n)).all()
    return {"rows": n, "workers": workers, "peak_mb": round(peak / 1e6, 1), **encoder.gauge.growth()}
