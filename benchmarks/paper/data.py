"""A benchmark's arrays: features of random views, of the training images, queries and database, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.backbone.view_cache import cached_view_features
from mecoq_faiss.comparison.data import held_out
from mecoq_faiss.config import make_configs
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import view_spec
from mecoq_faiss.presets import DIGITS

CUTS = {"flickr25k": 5000, "nuswide": 5000}  # MAP@k of the paper; 1000 for the others


@dataclass(frozen=True)
class Embeddings:
    """Features (F wide) and labels of a collection.

    Attributes:
        name: the collection, such as `cifar10-ii`.
        xt: (nt, F), those to train on; xq (nq, F) and xb (n, F), those of queries and database.
        yq, yb: labels, which only judge.
        held: rows of the database that were not trained on: settings are chosen there.
        k: the cut-off of MAP.
    """

    name: str
    xt: NDArray[Any]
    xq: NDArray[Any]
    yq: NDArray[Any]
    xb: NDArray[Any]
    yb: NDArray[Any]
    held: NDArray[np.int64]
    k: int


@dataclass(frozen=True)
class Data(Embeddings):
    """Images and their features under a frozen backbone, those of fixed views above.

    Attributes:
        views: (nt, V, F) float16, random views of the training images.
        train, queries, database: the images.
        net: the backbone, as `ModelConfig` names it.
    """

    views: NDArray[Any]
    train: ImageSource
    queries: ImageSource
    database: ImageSource
    net: dict[str, Any]


def load(
    source: str,
    backbone: str,
    weights: str,
    image_size: int,
    num_views: int,
    workers: int = -1,
    *,
    max_queries: int | None = None,
    device: str = "cpu",
) -> Data:
    """Open the protocol `NAME:ROOT`, and take its features from the cache, or compute them into it."""
    splits = [open_source(source, split) for split in ("train", "queries", "database")]
    train, queries, database = (split for split in splits if isinstance(split, ImageSource))
    if max_queries is not None and max_queries < len(queries):
        queries = queries.subset(np.sort(np.random.default_rng(0).choice(len(queries), max_queries, replace=False)))
    name = source.partition(":")[0]
    net = {"backbone": backbone, "weights": weights, "image_size": image_size}
    return of_images(name, train, queries, database, net, num_views, workers, device)


def of_images(
    name: str,
    train: ImageSource,
    queries: ImageSource,
    database: ImageSource,
    net: dict[str, Any],
    num_views: int,
    workers: int = -1,
    device: str = "cpu",
) -> Data:
    """The features of three sets of images, those to train on a part of the database, by the network `net`."""
    size = net["image_size"]
    backbone = create_backbone(net["backbone"], net["weights"], image_size=size)
    settings = DIGITS if name == "digits" else {}  # neither mirrored nor coloured
    spec = view_spec(make_configs(**settings)[1])
    views, rows_t = cached_view_features(
        train, backbone, size=size, spec=spec, num_views=num_views, seed=0, workers=workers, device=device
    )
    (xq, rows_q), (xb, rows_b) = (
        fixed_features(part, backbone, size=size, workers=workers, device=device) for part in (queries, database)
    )
    train, queries, database = train.subset(rows_t), queries.subset(rows_q), database.subset(rows_b)
    place = {path: row for row, path in enumerate(database.paths)}
    inside = np.array([place[path] for path in train.paths])
    held = held_out(np.isin(np.arange(len(database)), inside), np.random.default_rng(0))
    assert queries.labels is not None and database.labels is not None
    k = min(CUTS.get(name, 1000), len(database))
    xb = np.asarray(xb)
    return Data(
        name, xb[inside], np.asarray(xq), queries.labels, xb, database.labels, held, k, np.asarray(views), train,
        queries, database, net,
    )  # fmt: skip
