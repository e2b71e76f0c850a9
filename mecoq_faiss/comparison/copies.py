"""Altered copies of database images, drawn as in training: queries whose one right answer is known without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.data.views import apply_color, view_spec
from mecoq_faiss.model import MeCoQ

SEED = 0
FEWEST_COPIES = 100  # images worth measuring on
MOST = 500
NEW_VIEWS = 1 << 20  # view numbers that training never draws


def choose_rows(n: int, seen: NDArray[np.bool_] | None, rng: np.random.Generator) -> tuple[NDArray[np.int64], str]:
    """The images whose copies are made, and what is to be said of them.

    Args:
        n: images of the database.
        seen: (n,) which were trained on, or None where that is not known. The others are taken where they are at least
            FEWEST_COPIES: a model finds copies of what it was trained on more easily.
        rng: draws them.
    """
    pool = np.arange(n)
    if seen is not None and np.count_nonzero(~seen) >= FEWEST_COPIES:
        pool = np.flatnonzero(~seen)
    rows = np.sort(rng.choice(pool, min(MOST, len(pool)), replace=False))
    if seen is None:
        note = "whether the model was trained on them is not known, since its training data are not at hand"
    elif seen[rows].any():
        note = f"the model was trained on {seen[rows].sum():,} of them, which flatters the learned codes"
    else:
        note = "the model was not trained on them"
    return rows, f"altered copies of {len(rows):,} images of the database; {note}"


@torch.inference_mode()
def copy_features(source: ImageSource, model: MeCoQ, c: TrainConfig, workers: int) -> NDArray[Any]:
    """Features (n, F) of one new random view of every image."""
    spec = view_spec(c)
    loader = ImageLoader(source, model.config.image_size, spec=spec, seed=SEED, workers=workers)
    items = [[(row, (NEW_VIEWS,)) for row in range(i, min(i + 64, len(source)))] for i in range(0, len(source), 64)]
    parts = []
    for batch in loader.batches(items):
        images = apply_color(batch.images.flatten(0, 1), batch.colors.flatten(0, 1))
        parts.append(model.features(images).float().numpy())
    return np.concatenate(parts)
