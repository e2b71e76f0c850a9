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
class Data:
    """Features (F wide) and labels of one protocol under a frozen backbone.

    Attributes:
        name: the protocol, such as `cifar10-ii`.
        views: (nt, V, F) float16, random views of the training images.
        xt: (nt, F) their fixed views; xq (nq, F), xb (n, F) those of queries and database.
        yq, yb: labels, which only judge.
        held: rows of the database that were not trained on: settings are chosen there.
        train, queries, database: the images.
        net: the backbone, as `ModelConfig` names it.
        k: the cut-off of MAP.
    """

    name: str
    views: NDArray[Any]
    xt: NDArray[Any]
    xq: NDArray[Any]
    yq: NDArray[Any]
    xb: NDArray[Any]
    yb: NDArray[Any]
    held: NDArray[np.int64]
    train: ImageSource
    queries: ImageSource
    database: ImageSource
    net: dict[str, Any]
    k: int


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
    net = create_backbone(backbone, weights, image_size=image_size)
    splits = [open_source(source, split) for split in ("train", "queries", "database")]
    train, queries, database = (split for split in splits if isinstance(split, ImageSource))
    name = source.partition(":")[0]
    settings = DIGITS if name == "digits" else {}  # neither mirrored nor coloured
    spec = view_spec(make_configs(**settings)[1])
    views, rows_t = cached_view_features(
        train, net, size=image_size, spec=spec, num_views=num_views, seed=0, workers=workers, device=device
    )
    (xq, rows_q), (xb, rows_b) = (
        fixed_features(part, net, size=image_size, workers=workers, device=device) for part in (queries, database)
    )
    train, queries, database = train.subset(rows_t), queries.subset(rows_q), database.subset(rows_b)
    place = {path: row for row, path in enumerate(database.paths)}
    inside = np.array([place[path] for path in train.paths])  # every protocol trains on a part of its database
    rng = np.random.default_rng(0)
    if max_queries is not None and max_queries < len(queries):
        chosen = np.sort(rng.choice(len(queries), max_queries, replace=False))
        queries, xq = queries.subset(chosen), xq[chosen]
    held = held_out(np.isin(np.arange(len(database)), inside), rng)
    assert queries.labels is not None and database.labels is not None
    k = min(CUTS.get(name, 1000), len(database))
    xb = np.asarray(xb)
    model = {"backbone": backbone, "weights": weights, "image_size": image_size}
    return Data(
        name, np.asarray(views), xb[inside], np.asarray(xq), queries.labels, xb, database.labels, held, train, queries,
        database, model, k,
    )  # fmt: skip
