"""A bundle opened to be changed, by this process alone: all its shards and items, and a folder to work in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mecoq_faiss.bundle.folder import Pinned
from mecoq_faiss.bundle.items import Items, items_of_all
from mecoq_faiss.bundle.rewrite import rewriting
from mecoq_faiss.bundle.sharded import pinned_shards


class Changing(NamedTuple):
    """What a change begins with.

    Attributes:
        work: the folder to work in, from `rewriting`.
        bundle: the bundle's.
        manifest: what it says.
        shards: opened, all of them; a bundle without shards is its only one.
        items: of all shards, one behind another.
    """

    work: Path
    bundle: Path
    manifest: dict[str, Any]
    shards: list[Pinned]
    items: Items


@contextmanager
def changing(bundle: Path) -> Iterator[Changing]:
    """Within, this process alone changes the bundle; raises what `rewriting` and `pinned_shards` do."""
    with (
        rewriting(bundle) as work,
        pinned_shards(bundle) as (manifest, shards),
        items_of_all(shards) as items,
    ):
        yield Changing(work, bundle, manifest, shards, items)
