"""A model and a source -> embeddings, codes, ids, paths and labels in one HDF5 file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .datasets import FeatureSource, ImageSource, open_source
from .encoder import BATCH, Encoder, load_encoder
from .files import check_writable_parent
from .loading import ImageLoader
from .progress import progress
from .shards import Arrays, map_array, write_in_shards
from .tensors import checksum

logger = logging.getLogger("mecoq_faiss")
SHARD_ROWS = 8192
FORMAT = 1


def encode(
    model: str | Path | Encoder,
    data: str | Path | ImageSource | FeatureSource,
    out: str | Path,
    *,
    split: str = "database",
    embeddings: str | None = "float16",
    workers: int = -1,
    device: str | torch.device = "auto",
) -> int:
    """Encode every readable image of a source.

    The file holds `codes` (n, M) uint8, `embeddings` (n, D) segment-normalised, `ids` (n,) int64 (the source's rows),
    `paths` (n,) and, where there are any, `labels` (n,) int64 or (n, L) uint8. It is written in shards that a killed
    run continues; memory does not grow with n.

    Args:
        model: a run folder, a bundle, or an encoder.
        data: a source or its name; of a built-in protocol, `split`.
        out: the .h5 file; refused where it exists.
        embeddings: `float16`, `float32`, or None to leave them out.
        workers: processes that decode images, -1 chooses.
        device: where the model runs, as in `train`; of an encoder, its own.

    Returns:
        n, the number of rows written.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another file")
    if embeddings not in (None, "float16", "float32"):
        raise ValueError(f"embeddings={embeddings!r}: choose float16, float32 or None")
    check_writable_parent(out)
    encoder = model if isinstance(model, Encoder) else load_encoder(model, device)
    source = data if isinstance(data, ImageSource | FeatureSource) else open_source(data, split)
    check_fits(encoder, source)
    key = {
        "format": FORMAT,
        "model": model_fingerprint(encoder),
        "data": source.fingerprint,
        "embeddings": embeddings,
    }

    def batches(start: int) -> Iterator[Arrays]:
        shown = _embeddings(encoder, source, start, workers)
        for rows, z in progress(shown, total=num_batches, initial=start, label="encoding", unit="batches"):
            yield _arrays(source, rows, encoder.codes(z), z, embeddings)

    num_batches = -(-len(source) // BATCH)
    attributes = {"class_names": list(source.class_names), "D": encoder.d, "nbits": encoder.model.config.nbits}
    write_in_shards(out, batches, num_batches, SHARD_ROWS // BATCH, key, attributes, require="codes")
    n = len(map_array(out, "ids"))
    if n < len(source):
        logger.warning("%d of %d images cannot be read", len(source) - n, len(source))
    return n


def embed_source(
    encoder: Encoder, source: ImageSource | FeatureSource, *, workers: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """All of a small source at once, e.g. queries: embeddings (n, D) float32 and the readable rows (n,) int64."""
    check_fits(encoder, source)
    num_batches = -(-len(source) // BATCH)
    shown = progress(_embeddings(encoder, source, 0, workers), total=num_batches, label="queries", unit="batches")
    rows, z = zip(*shown, strict=True)
    if not sum(map(len, rows)):
        raise ValueError(f"{source.name} has no readable image: check the files")
    return np.concatenate(z), np.concatenate(rows)


def check_fits(encoder: Encoder, source: ImageSource | FeatureSource) -> None:
    """ValueError where the model takes images and the source holds features, or features of another width."""
    if isinstance(source, ImageSource):
        if encoder.takes_features:
            raise ValueError(f"the model takes features and {source.name} holds images: give an .h5 or .npy file")
        return
    if not encoder.takes_features:
        raise ValueError(f"the model takes images and {source.name} holds features: give a folder or tar of images")
    width = encoder.model.backbone.feature_dim
    if source.features.shape[-1] != width:
        raise ValueError(f"{source.name} holds features of width {source.features.shape[-1]}, the model takes {width}")
    source.check_finite()


def _embeddings(
    encoder: Encoder, source: ImageSource | FeatureSource, start: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, z) of each batch of BATCH rows from batch `start` on; unreadable rows are left out after the forward."""
    starts = range(start * BATCH, len(source), BATCH)
    if isinstance(source, FeatureSource):
        for first in starts:
            x = source.vectors(slice(first, first + BATCH))
            yield np.arange(first, first + len(x)), encoder.encode_batch(torch.from_numpy(x))
        return
    items = [[(row, ()) for row in range(first, min(first + BATCH, len(source)))] for first in starts]
    loader = ImageLoader(source, encoder.model.config.image_size, workers=workers)
    for batch in loader.batches(items):
        z = encoder.encode_batch(batch.images[:, 0])
        yield batch.rows[batch.readable], z[batch.readable]


def _arrays(
    source: ImageSource | FeatureSource, rows: np.ndarray, codes: np.ndarray, z: np.ndarray, embeddings: str | None
) -> Arrays:
    arrays: dict[str, Any] = {
        "codes": codes,
        "ids": rows.astype(np.int64),
        "paths": np.array([source.paths[row] for row in rows], dtype=object),
    }
    if embeddings:
        arrays["embeddings"] = z.astype(embeddings)
    if source.labels is not None:
        arrays["labels"] = source.labels[rows]
    return arrays


def model_fingerprint(encoder: Encoder) -> str:
    """SHA-256 over the tensors of a model: what its codes depend on."""
    return checksum(encoder.model.state_dict())
