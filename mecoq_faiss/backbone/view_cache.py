"""The view cache: with a frozen backbone, the features of V random views of each image, computed once."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mecoq_faiss.backbone.feature_cache import fingerprint, from_cache, of_device, write_together
from mecoq_faiss.backbone.network import Backbone, inference_part
from mecoq_faiss.data.loading import ImageLoader, LoadedBatch
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.data.views import ViewSpec, apply_color
from mecoq_faiss.runtime.progress import Estimate, progress
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.storage.shards import Arrays, bytes_written

logger = logging.getLogger("mecoq_faiss")
FORMAT = 1
FORWARD_IMAGES = 120  # a batch through the backbone: V views of so many rows that they come near this
SHARD_IMAGES = 6000


def cached_view_features(
    source: ImageSource,
    backbone: Backbone,
    *,
    size: int,
    spec: ViewSpec,
    num_views: int,
    seed: int,
    workers: int = -1,
    device: str = "cpu",
    bf16: bool = False,
    folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of `num_views` random views of every readable image, from the cache file or computed into it.

    The file is found by a hash of data, views, seed, size, backbone, weights, precision and, where it is not the CPU,
    the device's type: a GPU may round its products to TF32. Not in it is what moves last bits only: threads, versions,
    torch.compile. With `bf16` the backbone runs in bfloat16.

    Several ranks, which all call this alike, make a share each.

    Returns:
        features (n, V, F) float16, memory-mapped, and rows (n,) int64, the source's rows that could be read.

    Raises:
        ValueError: no image can be read, or a feature is too large for float16.
        OSError: no space, or a folder that cannot be written.
    """
    key = {
        "format": FORMAT,
        "data": source.fingerprint,
        "views": {"grey" if name == "gray" else name: value for name, value in asdict(spec).items()},  # as 0.1 wrote it
        "num_views": num_views,
        "seed": seed,
        "size": size,
        "backbone": fingerprint(backbone),
    } | of_device(device)
    key |= {"precision": "bf16"} if bf16 else {}
    key = json.loads(json.dumps(key))

    def write(path: Path) -> None:
        loader = ImageLoader(source, size, spec=spec, seed=seed, workers=workers)
        _write(path, key, loader, backbone.to(device).for_inference(size), num_views, device, bf16, ranks)

    return from_cache("views", key, write, folder, ranks)


def _write(
    path: Path,
    key: dict[str, Any],
    loader: ImageLoader,
    backbone: Backbone,
    num_views: int,
    device: str,
    bf16: bool,
    ranks: Ranks,
) -> None:
    n = len(loader.source)
    if ranks.first:
        _check_space(path, 2 * n * num_views * backbone.feature_dim)
    rows_per_batch = max(1, FORWARD_IMAGES // num_views)
    items = [(row, tuple(range(num_views))) for row in range(n)]
    batches = [items[i : i + rows_per_batch] for i in range(0, n, rows_per_batch)]

    def compute(start: int, stop: int) -> Iterator[Arrays]:
        left = num_views * sum(map(len, batches[start:stop]))
        what = f"view cache: {left:,} views, {num_views} of each image"
        estimate = Estimate(left, what, "--views or --budget changes it")
        loaded: Iterable[LoadedBatch] = loader.batches(batches[start:stop])
        if ranks.first:
            loaded = progress(loaded, total=stop, initial=start, label="view cache", unit="batches")
        for batch in loaded:
            with torch.inference_mode():
                images = batch.images.to(device, non_blocking=True).flatten(0, 1)
                features = _features(backbone, images, batch.colors.flatten(0, 1), bf16)
                array = features.half().cpu().numpy().reshape(len(batch.rows), num_views, -1)[batch.readable]
            if not np.isfinite(array).all():
                raise ValueError(
                    "the backbone gives features that are NaN or beyond float16's 65504: "
                    "check its weights, or use --no-view-cache"
                )
            estimate.done(num_views * len(batch.rows))
            yield {"features": array, "rows": batch.rows[batch.readable]}

    shard = max(1, SHARD_IMAGES // (rows_per_batch * num_views))
    write_together(path, key, compute, len(batches), shard, ranks)
    logger.info("view cache written: %s", path)


def _features(backbone: Backbone, images: Tensor, colors: Tensor, bf16: bool) -> Tensor:
    """Cut views (b, 3, s, s) uint8 and their colours -> features (b, F); on a CPU in parts that stay in its caches."""
    size, features = inference_part(images), []
    for part, color in zip(images.split(size), colors.split(size), strict=True):
        views = apply_color(part, color)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            features.append(backbone(views))
    return torch.cat(features)


def _check_space(path: Path, size: int) -> None:
    """The file is on the disk twice while its shards are put together."""
    needed, free = 2 * size - bytes_written(path), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"the view cache needs {needed / 1e9:.1f} GB while it is made and {path.parent} has {free / 1e9:.1f} GB: "
            "point MECOQ_FAISS_CACHE elsewhere, lower cached_views, or use --no-view-cache"
        )
