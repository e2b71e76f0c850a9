"""Whole sources through an encoder batch by batch, the check that they fit it, and a model's fingerprint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mecoq_faiss.bundle.encoder import ENCODE_BATCH, Encoder
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import FeatureSource, ImageSource, Source
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.storage.checksum import checksum


def embed_source(encoder: Encoder, source: Source, *, workers: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """All of a small source at once, e.g. queries: embeddings (n, D) float32 and the readable rows (n,) int64."""
    check_fits(encoder, source)
    num_batches = -(-len(source) // ENCODE_BATCH)
    shown = progress(embed_batches(encoder, source, 0, workers), total=num_batches, label="queries", unit="batches")
    rows, z = zip(*shown, strict=True)
    if not sum(map(len, rows)):
        raise ValueError(f"{source.name} has no readable image: check the files")
    return np.concatenate(z), np.concatenate(rows)


def check_fits(encoder: Encoder, source: Source) -> None:
    """ValueError where the model takes images and the source holds features, or features of another width."""
    if isinstance(source, ImageSource):
        if encoder.takes_features:
            raise ValueError(f"the model takes features and {source.name} holds images: give an .h5 or .npy file")
        return
    if not encoder.takes_features:
        raise ValueError(f"the model takes images and {source.name} holds features: give a folder or tar of images")
    [width] = encoder.shape
    if source.features.shape[-1] != width:
        raise ValueError(f"{source.name} holds features of width {source.features.shape[-1]}, the model takes {width}")
    source.check_finite()


def embed_batches(
    encoder: Encoder, source: Source, start: int, workers: int, stop: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, z) of each ENCODE_BATCH rows from batch `start` on, to before `stop` or to the end.

    Unreadable rows are left out after the forward.
    """
    end = len(source) if stop is None else min(len(source), stop * ENCODE_BATCH)
    starts = range(start * ENCODE_BATCH, end, ENCODE_BATCH)
    if isinstance(source, FeatureSource):
        for first in starts:
            x = source.vectors(slice(first, first + ENCODE_BATCH))
            yield np.arange(first, first + len(x)), encoder.encode_batch(x)
        return
    items = [[(row, ()) for row in range(first, min(first + ENCODE_BATCH, len(source)))] for first in starts]
    loader = ImageLoader(source, encoder.shape[-1], workers=workers)
    for batch in loader.batches(items):
        z = encoder.encode_batch(batch.images[:, 0])
        yield batch.rows[batch.readable], z[batch.readable]


def model_fingerprint(encoder: TorchEncoder) -> str:
    """SHA-256 over the tensors of a model: what its codes depend on."""
    return checksum(encoder.model.state_dict())
