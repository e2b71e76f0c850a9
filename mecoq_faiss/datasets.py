"""Sources of images or of ready-made features, as the user names them: ``open_source(SRC, split)``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from .images import TAR_TYPES, FolderStore, ImageStore, TarStore, UnreadableImage, decode_image, scan_folder

__all__ = ["SPLITS", "ImageSource", "UnreadableImage", "decode_image", "open_source"]

SPLITS = ("train", "queries", "database")


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images in a folder, a tar or memory, opened one by one. Picklable, and safe in forked workers.

    Attributes:
        name: what the user typed.
        paths: names relative to the root, with forward slashes, sorted.
        labels: class ids (n,) int64, or (n, L) 0/1 uint8 for several labels an image; None without labels.
        class_names: by class id; empty without labels.
        protocol: name, split and seed of a built-in protocol; None for a plain folder or tar.
    """

    kind: ClassVar[str] = "images"

    name: str
    paths: tuple[str, ...] = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    class_names: tuple[str, ...]
    protocol: dict | None
    _store: ImageStore = field(repr=False)
    _rows: np.ndarray = field(repr=False)  # (n,) rows of the store

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, i: int, draft: int | None = None) -> Image.Image:
        """Image ``i`` in RGB (``draft`` as in ``decode_image``); raises UnreadableImage naming its path."""
        return self._store.decode(int(self._rows[i]), draft)

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageSource:
        """The same storage with the chosen rows only, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        paths = tuple(self.paths[row] for row in rows)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, paths=paths, labels=labels, _rows=self._rows[rows])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and times (or offsets, or pixels) of the chosen rows."""
        digest = hashlib.sha256()
        for path, row in zip(self.paths, self._rows.tolist(), strict=True):
            stamp = self._store.stamp(row)
            digest.update(b"%s\0%d\0%s" % (os.fsencode(path), len(stamp), stamp))
        return digest.hexdigest()


def open_source(src: str | Path, split: str) -> ImageSource:
    """Open what the user calls SRC: a folder or tar of images."""
    path = Path(src).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{src}: no such file or folder")
    store: FolderStore | TarStore
    if path.is_dir():
        store = scan_folder(path)
    elif path.name.lower().endswith(TAR_TYPES):
        store = TarStore(path)
    else:
        raise ValueError(f"{src}: not a folder or a tar")
    labels, class_names = _folder_labels(store.names)
    rows = np.arange(len(store.names))
    return ImageSource(str(src), store.names, labels, class_names, None, store, rows)


def _folder_labels(names: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The first folder of each name is its class, if every image lies in one."""
    if not all("/" in name for name in names):
        return None, ()
    class_names, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    return labels.astype(np.int64), tuple(class_names.tolist())
