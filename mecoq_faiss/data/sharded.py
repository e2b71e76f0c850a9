"""Images in many files: a folder of tars, as webdataset writes them, or of Parquet files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mecoq_faiss.data.parquet_images import PARQUET
from mecoq_faiss.data.stores import TAR_TYPES, TarStore

SHARD_TYPES = (*TAR_TYPES, PARQUET)
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 1_000_000


class ShardedStore:
    """The images of several files, in the order of their names; each is named SHARD:NAME where names come twice."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Index the shards; raises ValueError for one that is damaged or has no image."""
        self._stores = [TarStore(path) for path in paths]
        names = [name for store in self._stores for name in store.names]
        if len(set(names)) < len(names):
            pairs = zip(paths, self._stores, strict=True)
            names = [f"{path.name}:{name}" for path, store in pairs for name in store.names]
        self.names = tuple(names)
        self._starts = np.cumsum([0, *(len(store.names) for store in self._stores)])

    def decode(self, i: int, draft: int | None = None) -> Image.Image:
        """Image i as RGB; raises UnreadableImage."""
        store, row = self._place(i)
        return store.decode(row, draft)

    def stamp(self, i: int) -> bytes:
        """What changes when image i does."""
        store, row = self._place(i)
        return store.stamp(row)

    def digest(self, i: int) -> bytes:
        """SHA-256 of image i as it is stored."""
        store, row = self._place(i)
        return store.digest(row)

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of image i, and when it was written (ns)."""
        store, row = self._place(i)
        return store.size_and_time(row)

    def _place(self, i: int) -> tuple[TarStore, int]:
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._stores[number], i - int(self._starts[number])


def shards_in(folder: Path) -> list[Path]:
    """The tars and Parquet files that lie in a folder, by name."""
    return sorted(path for path in folder.iterdir() if is_shard(path.name) and path.is_file())


def is_shard(name: str) -> bool:
    """Whether a file is one of images by its name."""
    return name.lower().endswith(SHARD_TYPES) and not name.startswith(".")


def expanded(pattern: str) -> list[Path]:
    """`shards/{000..099}.tar` -> its files; FileNotFoundError for the first that is not there."""
    found = RANGE.search(pattern)
    assert found
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise ValueError(f"{pattern}: the range {found[0]} is none: write the smaller number first")
    numbers = (f"{number:0{len(found[1])}}" for number in range(first, last + 1))
    paths = [Path(pattern[: found.start()] + number + pattern[found.end() :]).expanduser() for number in numbers]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(f"{pattern}: no file {missing}")
    return paths
