"""Backbone features of the one fixed view of every image, from the cache file or computed into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.backbone.feature_cache import fingerprint, from_cache, of_device, write_together
from mecoq_faiss.backbone.network import Backbone
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import FeatureSource, Source
from mecoq_faiss.data.views import to_float
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.storage.shards import Arrays

FORMAT = 1
BATCH = 64  # fixed, as in `bundle.encoder`: features differ in the last bits between batch sizes
SHARD_BATCHES = 64


def fixed_features(
    source: Source,
    backbone: Backbone,
    *,
    size: int,
    workers: int = -1,
    device: str = "cpu",
    folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F) float32 of every readable image, memory-mapped, and rows (n,) int64 of the source.

    A source of features gives its own (of several views the first). For images the file is found in the cache folder
    by a hash of data, size, backbone, weights and, where it is not the CPU, the device's type; a killed run continues.
    Several ranks, which all call this alike, make a share each.

    Raises:
        ValueError: no image can be read.
        OSError: a cache folder that cannot be written.
    """
    if isinstance(source, FeatureSource):
        return source.vectors(slice(None)), np.arange(len(source))
    key = made_of(source, backbone, size, device)

    def write(path: Path) -> None:
        loader = ImageLoader(source, size, workers=workers)
        _write(path, key, loader, backbone.to(device).for_inference(size), device, ranks)

    return from_cache("fixed", key, write, folder, ranks)


def made_of(source: Source, backbone: Backbone, size: int, device: str) -> dict[str, Any]:
    """What the features depend on."""
    key = {"format": FORMAT, "data": source.fingerprint, "size": size, "backbone": fingerprint(backbone)}
    return key | of_device(device)


def each_batch(
    loader: ImageLoader, backbone: Backbone, device: str, start: int = 0, stop: int | None = None
) -> Iterator[Arrays]:
    """`features` (b, F) float32 and `rows` (b,) of the readable images of each batch of BATCH, or of some."""
    n = len(loader.source)
    items = [[(row, ()) for row in range(first, min(first + BATCH, n))] for first in range(0, n, BATCH)]
    for batch in loader.batches(items[start:stop]):
        with torch.inference_mode():
            images = to_float(batch.images[:, 0].to(device, non_blocking=True))
            features = backbone(images).float().cpu().numpy()
        yield {"features": features[batch.readable], "rows": batch.rows[batch.readable]}


def _write(path: Path, key: dict, loader: ImageLoader, backbone: Backbone, device: str, ranks: Ranks) -> None:
    def compute(start: int, stop: int) -> Iterator[Arrays]:
        batches = each_batch(loader, backbone, device, start, stop)
        if not ranks.first:
            return batches
        return progress(batches, total=stop, initial=start, label="features", unit="batches")

    write_together(path, key, compute, -(-len(loader.source) // BATCH), SHARD_BATCHES, ranks)
