"""What the service says of items: nothing of the machine, and only what JSON knows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np

from mecoq_faiss.bundle.generation import Generation, relevance
from mecoq_faiss.service.schema import BundleBody, HitBody, ItemBody, ResultBody
from mecoq_faiss.service.searching import Found

ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]")  # on any machine


def results(names: Sequence[str], found: Found, picture: str | None) -> list[ResultBody]:
    """The hits of each query. `picture` is the address of a picture with `{}` for the id."""
    return [
        ResultBody(
            query=name,
            hits=[
                HitBody(
                    rank=hit.rank,
                    score=hit.score,
                    relevance=relevance(hit.score, found.top),
                    id=hit.id,
                    path=shown(hit.path),
                    label=found.labels[hit.row],
                    metadata=plain(found.metadata.get(hit.id)),
                    picture=picture and picture.format(hit.id),
                    codes=found.codes.get(hit.row),
                    segments=found.segments.get((number, hit.row)),
                )
                for hit in hits
            ],
        )
        for number, (name, hits) in enumerate(zip(names, found.hits, strict=True))
    ]


def item(generation: Generation, id: int, picture: str | None) -> ItemBody:
    """One item; KeyError where there is none of that id."""
    row = generation.row_of(id)
    rows = np.array([row])
    return ItemBody(
        id=id,
        path=shown(generation.paths(rows)[0]),
        label=generation.labels(rows)[0],
        metadata=plain(generation.metadata([id]).get(id)),
        picture=picture and picture.format(id),
        codes=generation.codes(rows)[0].tolist(),
    )


def described(name: str, generation: Generation) -> BundleBody:
    """One bundle."""
    said, encoder = generation.manifest, generation.encoder
    takes = "features" if encoder.takes_features else "images"
    return BundleBody(
        name=name, items=len(generation), kind=said["kind"], codes=said.get("codes", "product"), M=said["M"],
        nbits=said["nbits"], bytes=said["M"] * said["nbits"] / 8, takes=takes,
        feature_dim=encoder.shape[0] if encoder.takes_features else None,
        columns=generation.columns, generation=generation.name,
    )  # fmt: skip


def shown(path: str) -> str:
    """A path as it is told: of an absolute one its last part."""
    return re.split(r"[/\\]", path)[-1] if ABSOLUTE.match(path) else path


def plain(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as JSON holds them: times in ISO 8601, no NaN, what else there is as text."""
    return None if metadata is None else {name: _plain(value) for name, value in metadata.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return str(value)
