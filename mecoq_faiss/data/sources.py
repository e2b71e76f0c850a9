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

from mecoq_faiss.data.copied import copied
from mecoq_faiss.data.features import FEATURE_TYPES, FeatureSource, open_features
from mecoq_faiss.data.given import Table
from mecoq_faiss.data.images import IMAGE_TYPES, UnreadableImage, decode_image
from mecoq_faiss.data.protocols import PROTOCOL_SEED, PROTOCOLS, SPLITS, open_protocol
from mecoq_faiss.data.sharded import RANGE, SHARD_TYPES, ShardedStore, expanded, is_shard, shards_in
from mecoq_faiss.data.sidecar import with_sidecar
from mecoq_faiss.data.stores import FolderStore, ImageStore, TarStore, scan_folder
from mecoq_faiss.runtime.suggest import did_you_mean
from mecoq_faiss.storage.files import check_regular

__all__ = [
    "PROTOCOLS",
    "SPLITS",
    "FeatureSource",
    "ImageSource",
    "Source",
    "UnreadableImage",
    "as_source",
    "decode_image",
    "open_source",
]


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images in a folder, a tar or memory, opened one by one. Picklable, and safe in forked workers.

    Attributes:
        name: what the user typed.
        paths: names relative to the root, with forward slashes, sorted.
        labels: class ids (n,) int64, or (n, L) 0/1 uint8 for several labels an image; None without labels.
        class_names: by class id; empty without labels.
        protocol: name, split and seed of a built-in protocol; None for a plain folder or tar.

    Example:
        >>> from mecoq_faiss import open_source
        >>> source = open_source("photos", "train")
        >>> source.paths[0], source.open(0).mode, len(source.subset([0, 2]))
        ('0.png', 'RGB', 2)
    """

    kind: ClassVar[str] = "images"
    table: ClassVar[Table | None] = None  # images have no metadata of their own

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

    def digest(self, i: int) -> bytes:
        """SHA-256 (32 bytes) of image ``i`` as it is stored; raises OSError."""
        return self._store.digest(int(self._rows[i]))

    def size_and_time(self, i: int) -> tuple[int, int]:
        """Bytes of image ``i`` and when it was written (ns), 0 where that is not known; raises OSError."""
        return self._store.size_and_time(int(self._rows[i]))

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageSource:
        """The same storage with the chosen rows only (numbers, or a mask), in the order given."""
        picked = np.arange(len(self))[np.asarray(rows, dtype=None if len(rows) else np.int64)]
        paths = tuple(self.paths[row] for row in picked)
        labels = None if self.labels is None else self.labels[picked]
        return replace(self, paths=paths, labels=labels, _rows=self._rows[picked])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and times (or offsets, or pixels) of the chosen rows."""
        digest = hashlib.sha256()
        for path, row in zip(self.paths, self._rows.tolist(), strict=True):
            stamp = self._store.stamp(row)
            digest.update(b"%s\0%d\0%s" % (os.fsencode(path), len(stamp), stamp))
        return digest.hexdigest()


Source = ImageSource | FeatureSource


def as_source(source: str | Path | Source, split: str) -> Source:
    """A source as it is; what names one is opened, of a built-in protocol its `split`."""
    return source if isinstance(source, Source) else open_source(source, split)


def open_source(src: str | Path, split: str) -> Source:
    """Open what the user calls SRC.

    Args:
        src: a folder (searched recursively), a tar or a Parquet file of images, whose first folder below the root (in a
            Parquet file, whose column `label`) is the class if every image lies in one; a folder of nothing but such
            files, or `shards/{000..099}.tar`; an ``.h5``, ``.hdf5`` or ``.npy`` file of features, the last with a table
            beside it if there is one (``with_sidecar``); a URL that fsspec knows, such as ``s3://bucket/photos``, of
            which a copy is kept in the cache; or ``NAME[:ROOT][#SPLIT]`` of a built-in protocol. A string that is a
            protocol's name means the protocol: write ``./digits`` for a folder of that name.
        split: "train", "queries" or "database": the protocol's split unless ``src`` names one; plain files
            and folders have one part only, and ignore it.

    Raises:
        FileNotFoundError: no such file, folder or protocol.
        ValueError: unknown split, or a source that cannot be used; the message says why and how to mend it.

    Example:
        >>> from mecoq_faiss import open_source
        >>> open_source("digits", "queries").class_names[:3]
        ('0', '1', '2')
    """
    _check_split(split)
    text = str(src)
    path = Path(text).expanduser()
    base, hash_sign, ending = text.rpartition("#") if "#" in text else (text, "", split)
    name, _, root = base.partition(":")
    if isinstance(src, str) and name in PROTOCOLS:
        _check_split(ending)
        return _protocol_source(text, name, Path(root).expanduser() if root else None, ending)
    if "://" in text:
        return replace(open_source(copied(text), split), name=text)
    if path.is_dir():
        return _folder_source(text, path)
    if RANGE.search(text) and is_shard(text) and not path.exists():
        return _image_source(text, ShardedStore(expanded(text)))
    if path.exists():
        return _file_source(text, path)
    if hash_sign and Path(base).expanduser().exists():
        raise ValueError(f"{text}: only built-in protocols have splits; write {base} without #{ending}")
    raise FileNotFoundError(
        f"{text}: no file or folder of this name, and not a built-in protocol: {did_you_mean(name.lower(), PROTOCOLS)}"
    )


def open_images(paths: Sequence[str | Path], root: str | Path | None = None) -> ImageSource:
    """Single image files as a source; named relative to `root`, in which they lie, or as they are given.

    Raises FileNotFoundError for a file that is not there, ValueError for one that is no image by its name or lies
    elsewhere.
    """
    names = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}: check the path")
        if not path.name.lower().endswith(IMAGE_TYPES):
            raise ValueError(f"{path} is no image; accepted types: {', '.join(IMAGE_TYPES)}")
        if root is not None:
            inside = os.path.relpath(path.resolve(), Path(root).resolve())
            if inside.startswith(".."):
                raise ValueError(f"{path} does not lie in {root}: leave --root out, or give the folder it lies in")
            names.append(inside.replace(os.sep, "/"))
        else:
            names.append(str(path))
    store = FolderStore(root if root is not None else os.getcwd(), tuple(sorted(set(names))))
    return _image_source(f"{len(names)} images", store)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")


def _protocol_source(text: str, name: str, root: Path | None, split: str) -> ImageSource:
    benchmark = open_protocol(name, root)
    rows = benchmark.splits[split]
    paths = tuple(benchmark.store.names[row] for row in rows)
    protocol = {"name": name, "split": split, "seed": PROTOCOL_SEED}
    return ImageSource(text, paths, benchmark.labels[rows], benchmark.class_names, protocol, benchmark.store, rows)


def _folder_source(text: str, path: Path) -> ImageSource:
    try:
        return _image_source(text, scan_folder(path))
    except ValueError:  # no image
        shards = shards_in(path)
        if not shards:
            raise
    return _image_source(text, ShardedStore(shards))


def _file_source(text: str, path: Path) -> Source:
    check_regular(path)
    file_name = path.name.lower()
    if file_name.endswith(SHARD_TYPES):
        return _image_source(text, TarStore(path))
    if file_name.endswith(FEATURE_TYPES):
        source = open_features(path, text)
        return with_sidecar(source, path) if file_name.endswith(".npy") else source
    if file_name.endswith(".npz"):
        raise ValueError(f"{text}: .npz cannot be read in parts; save its array alone with np.save as .npy")
    if file_name.endswith(IMAGE_TYPES):
        raise ValueError(f"{text}: a single image; give the folder that holds the images")
    types = ", ".join(SHARD_TYPES + FEATURE_TYPES)
    raise ValueError(f"{text}: unknown file type; give a folder of images or one of {types}")


def _image_source(text: str, store: ImageStore) -> ImageSource:
    labels, class_names = _folder_labels(store.names)
    return ImageSource(text, store.names, labels, class_names, None, store, np.arange(len(store.names)))


def _folder_labels(names: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The first folder of each name is its class, if every image lies in one."""
    if not all("/" in name for name in names):
        return None, ()
    class_names, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    return labels.astype(np.int64), tuple(class_names.tolist())
