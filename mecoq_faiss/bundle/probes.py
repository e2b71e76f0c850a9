"""What an export is proved with: queries that are not in the database, and images encoded a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.crop import crop
from mecoq_faiss.data.sources import FeatureSource, Source, UnreadableImage
from mecoq_faiss.data.views import ViewSpec, apply_color, draw_view
from mecoq_faiss.index.codes import decode_codes, sum_codes
from mecoq_faiss.storage.shards import map_array

QUERIES = 64
NOISE = 0.5  # norm of what is added to each codeword


def queries_like_codes(codebooks: np.ndarray, codes: np.ndarray, additive: bool = False) -> np.ndarray:
    """Queries (nq, M * d) float32 near some of the vectors that codes (n, M) stand for.

    Segment-normalised; of `additive` codes near sums, of norm 1 and M times in a row.
    """
    M, _, d = codebooks.shape
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(codes), QUERIES)
    x = sum_codes(codebooks, codes[rows])[:, None] if additive else decode_codes(codebooks, codes[rows])
    x = x.reshape(QUERIES, -1, d)  # (nq, M, d), or (nq, 1, d)
    x = x + rng.normal(0, NOISE / np.sqrt(d), x.shape)
    x = (x / np.linalg.norm(x, axis=2, keepdims=True)).astype(np.float32).reshape(QUERIES, -1)
    return np.tile(x, (1, M)) if additive else x


def queries_like_images(encoder: TorchEncoder, source: Source) -> np.ndarray:
    """Random views of some images of the database (features: with a tenth dropped), encoded, (nq, D) float32."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(source))[:QUERIES]
    if isinstance(source, FeatureSource):
        x = source.vectors(np.sort(rows))
        return encoder.encode_batch(x * (rng.random(x.shape) < 0.9).astype(np.float32))
    spec, size = ViewSpec(), encoder.model.config.image_size
    images, colors = [], []
    for row in rows:
        try:
            image = source.open(int(row))
        except UnreadableImage:
            continue
        view = draw_view(spec, *image.size, key=(0, int(row)))
        images.append(crop(image, view.box, size))
        colors.append(torch.from_numpy(view.color))
    if not images:  # all of the sample is unreadable: any vectors serve
        z = torch.randn(QUERIES, encoder.quantizer.dim, generator=torch.Generator().manual_seed(0))
        return encoder.quantizer.queries(z).numpy()
    views = apply_color(torch.from_numpy(np.stack(images)), torch.stack(colors))
    return encoder.encode_batch((views * 255).round().to(torch.uint8))


def encode_again(encoder: TorchEncoder, source: Source, encoded: str) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of an encoded file, up to one batch, and the codes that `Encoder.encode` gives for their images.

    `encoded` is the file, whose `ids` are rows of `source`.
    """
    ids = map_array(Path(encoded), "ids")[:ENCODE_BATCH]
    if isinstance(source, FeatureSource):
        z = encoder.encode(source.vectors(ids))
    else:
        z = encoder.encode([source.open(int(i), draft=encoder.model.config.image_size) for i in ids])
    return np.arange(len(ids)), encoder.codes(z)
