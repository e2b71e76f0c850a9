"""The collections: of each, images to train on, queries and database, drawn by seed from folders that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mecoq_faiss.data.sources import ImageSource, open_source

MOST_TRAINED, MOST_QUERIES = 8000, 2000
SMALLEST_CLASS, LARGEST_CLASS = 20, 200  # of the uneven classes


class Split(NamedTuple):
    """The images to train on are some of the database's, or all."""

    train: ImageSource
    queries: ImageSource
    database: ImageSource


def protocol(root: str, name: str) -> Split:
    """A built-in protocol."""
    train, queries, database = (_images(f"{name}:{root}" if root else name, part) for part in Split._fields)
    return Split(train, _some(queries, MOST_QUERIES), database)


def imagenet200(root: str) -> Split:
    """200 classes, 50,000 images in the database: ROOT/train and ROOT/test hold a folder for each class."""
    database, queries = _images(f"{root}/train"), _images(f"{root}/test")
    return Split(_some(database, MOST_TRAINED), queries, database)


def uneven(root: str) -> Split:
    """100 of the classes in ROOT/train, the largest with 200 images, the smallest with 20; a seventh are queries."""
    sizes = np.geomspace(LARGEST_CLASS, SMALLEST_CLASS, 100).astype(int)
    return _of_classes(_images(f"{root}/train"), sizes, share=1 / 7)


def fifty(root: str) -> Split:
    """50 of the classes in ROOT/train, 100 images each; a fifth are queries."""
    return _of_classes(_images(f"{root}/train"), np.full(50, 100), share=1 / 5)


def few(root: str) -> Split:
    """500 images: ten of the classes in ROOT/train, 50 images each; four times as many are queries."""
    return _of_classes(_images(f"{root}/train"), np.full(10, 250), share=4 / 5)


def five(root: str) -> Split:
    """Five of the classes in ROOT/train, 250 images each; a fifth are queries."""
    return _of_classes(_images(f"{root}/train"), np.full(5, 250), share=1 / 5)


def textures(root: str) -> Split:
    """Ten classes of 120 textures each; a fifth are queries."""
    source = _images(root)
    return _of_classes(source, np.full(len(source.class_names), 120), share=1 / 5)


COLLECTIONS: dict[str, Callable[[str], Split]] = {
    "cifar10-i": lambda root: protocol(root, "cifar10-i"),
    "cifar10-ii": lambda root: protocol(root, "cifar10-ii"),
    "imagenet200": imagenet200,
    "uneven": uneven,
    "fifty": fifty,
    "five": five,
    "few": few,
    "textures": textures,
    "digits": lambda root: protocol("", "digits"),
}


def _of_classes(source: ImageSource, sizes: np.ndarray, share: float) -> Split:
    """So many images of each of so many classes, drawn by seed; `share` of each are queries, all else is trained on."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(len(source.class_names))[: len(sizes)]
    queries, database = [], []
    for c, size in zip(classes, sizes, strict=True):
        rows = rng.permutation(np.flatnonzero(source.labels == c))[:size]
        cut = max(1, round(share * len(rows)))
        queries.append(rows[:cut])
        database.append(rows[cut:])
    in_database = source.subset(np.sort(np.concatenate(database)))
    return Split(_some(in_database, MOST_TRAINED), source.subset(np.sort(np.concatenate(queries))), in_database)


def _some(source: ImageSource, most: int) -> ImageSource:
    return source.subset(np.sort(np.random.default_rng(0).permutation(len(source))[:most]))


def _images(name: str, split: str = "database") -> ImageSource:
    source = open_source(name, split)
    if not isinstance(source, ImageSource) or source.labels is None:
        raise ValueError(f"{Path(name).name} holds no images in folders of their classes: give such a folder")
    return source
