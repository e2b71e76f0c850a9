"""Cache files of features: where they lie, how one is found by its key, and made where it is missing or damaged."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.backbone.network import Backbone
from mecoq_faiss.runtime.cache import cache_folder
from mecoq_faiss.storage.checksum import checksum
from mecoq_faiss.storage.files import check_regular, locked
from mecoq_faiss.storage.hdf5 import damaged_dataset
from mecoq_faiss.storage.shards import finished, has_shards, map_array, read_key

logger = logging.getLogger("mecoq_faiss")


def fingerprint(backbone: Backbone) -> str:
    """SHA-256 over a backbone: architecture and weights; of a registered one also what it makes of an image."""
    tensors = checksum(backbone.state_dict() | {"mean": backbone.mean, "std": backbone.std})
    said = f"{backbone.net!r} {tensors}"
    if backbone.probe_size:
        said += f" {_probe(backbone)}"
    return hashlib.sha256(said.encode()).hexdigest()


@torch.no_grad()
def _probe(backbone: Backbone) -> list[str]:
    """The features of a random image of `probe_size`, to three digits, for the last ones differ between machines."""
    size = backbone.probe_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(backbone.mean.device)
    was = backbone.training
    features = backbone.eval()(image)[0]
    backbone.train(was)
    return [f"{value:.2e}" for value in features.tolist()]


def of_device(device: str) -> dict[str, str]:
    """What a key says of the device; nothing for the CPU."""
    kind = torch.device(device).type
    return {} if kind == "cpu" else {"device": kind}


def from_cache(
    prefix: str, key: dict[str, Any], write: Callable[[Path], None], folder: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `features` (memory-mapped) and `rows` of the cache file of this key; `write` makes it where it is not.

    Where several processes ask for the same file, one makes it and the others wait. A file that does not match its
    checksums is made again.
    """
    folder = folder or cache_folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{prefix}-{name}.h5"
    with suppress(FileNotFoundError):
        check_regular(path)  # HDF5 would wait for a FIFO
    if not _is_whole(path, key):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{prefix}-{name}.lock"):
            if not _is_whole(path, key):
                write(path)
    elif has_shards(path):
        with suppress(OSError), locked(folder / f".{prefix}-{name}.lock"):  # another's, or a folder only to be read
            finished(path, key)
    return map_array(path, "features"), np.asarray(map_array(path, "rows"))


def _is_whole(path: Path, key: dict[str, Any]) -> bool:
    if read_key(path) != key:
        return False
    with suppress(OSError):
        if damaged_dataset(path) is None:
            return True
    logger.warning("%s is damaged: it is made again", path)
    return False
