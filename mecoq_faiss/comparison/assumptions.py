"""Where the recipe's assumptions do not hold on the data at hand: warnings, a line each, of what was counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.data.features import FeatureSource
from mecoq_faiss.data.sources import Source
from mecoq_faiss.evaluation import count_relevant
from mecoq_faiss.presets import OBJECTIVES

IMAGES_A_CODEWORD = 4
FEWEST_QUERIES = 100
PRIOR_OFF = 3.0  # times too large or too small
SEED, SAMPLE = 0, 2_000  # images whose kind is counted in the whole database


def warnings(
    model: ModelConfig,
    train: TrainConfig | None,
    trained_on: Source | None,
    labels_db: NDArray[Any] | None,
    num_queries: int,
) -> list[str]:
    """What is not as the recipe assumes it; empty where nothing is known against it.

    Args:
        model: the run's settings.
        train: likewise; a bundle has none.
        trained_on: the run's training data, or None where they are not at hand.
        labels_db: (n,) classes or (n, L) 0/1 sets of the database, or None.
        num_queries: how many there are.
    """
    found = []
    contrasts = model.metric == "aqs"  # and does not preserve what is given
    if trained_on is not None and len(trained_on) < IMAGES_A_CODEWORD * model.K:
        found.append(
            f"the run learned from {len(trained_on):,} images, {len(trained_on) / model.K:.1f} for each of the "
            f"{model.K} codewords: more than {IMAGES_A_CODEWORD} each, also without labels, make better codes"
        )
    if contrasts and isinstance(trained_on, FeatureSource) and trained_on.features.ndim == 2:
        found.append(
            "the run learned from one feature vector an image, without views of it: what crops and light change was "
            "never contrasted; give features of several views, (n, V, F), or the images"
        )
    if contrasts and train is not None and train.positive_prior > 0 and labels_db is not None:
        share, prior = share_of_a_kind(labels_db), train.positive_prior
        counted = f"two images of the database are of one kind with a chance of {share:.2g}, by their labels"
        if share <= prior / PRIOR_OFF and not _is_fine(train):
            found.append(f"{counted}: kinds are many; also try training with --objective fine")
        if share >= prior * PRIOR_OFF:
            mend = f"also try training with --set positive_prior={share:.2g}"
            found.append(f"{counted}; the run had positive_prior={prior:.2g}: {mend}")
    if num_queries < FEWEST_QUERIES:
        found.append(f"{num_queries} queries say little, hence wide intervals: give {FEWEST_QUERIES} or more")
    return found


def _is_fine(train: TrainConfig) -> bool:
    return train.preserve_weight >= OBJECTIVES["fine"]["preserve_weight"]


def share_of_a_kind(labels: NDArray[Any]) -> float:
    """The chance that two images are of one kind: of classes the sum of their squared shares.

    Args:
        labels: (n,) classes or (n, L) 0/1 sets. Of more than SAMPLE images so many are drawn, and compared with all.
    """
    rows = np.random.default_rng(SEED).permutation(len(labels))[:SAMPLE]
    return float(count_relevant(labels[rows], labels).mean() / len(labels))
