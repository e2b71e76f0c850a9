"""Cache files of features: where they lie, how one is found by its key, and made where it is missing or damaged."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.backbone.network import Backbone
from mecoq_faiss.runtime.cache import cache_folder, make_folder
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.storage.checksum import checksum
from mecoq_faiss.storage.files import check_regular, locked
from mecoq_faiss.storage.hdf5 import damaged_dataset
from mecoq_faiss.storage.shards import (
    Arrays,
    Shards,
    finished,
    has_shards,
    map_array,
    read_key,
    shards_of,
    write_in_shards,
)

NAME_LENGTH = len(f"{0:06d}-{'0' * 64}.h5")  # of a shard
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
    prefix: str, key: dict[str, Any], write: Callable[[Path], None], folder: Path | None = None, ranks: Ranks = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `features` (memory-mapped) and `rows` of the cache file of this key; `write` makes it where it is not.

    Where several processes ask for the same file, one makes it and the others wait. A file that does not match its
    checksums is made again. Of several ranks the first decides, and all call `write`.
    """
    folder = folder or cache_folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{prefix}-{name}.h5"
    with suppress(FileNotFoundError):
        check_regular(path)  # HDF5 would wait for a FIFO
    if ranks.first:
        _make_whole(path, key, write, ranks)
    else:
        write(path)
    ranks.wait()
    if not ranks.first and not path.exists():
        raise OSError(f"the first rank's {path} is not seen here: all ranks need the same data and one cache folder")
    return map_array(path, "features"), np.asarray(map_array(path, "rows"))


def _make_whole(path: Path, key: dict[str, Any], write: Callable[[Path], None], ranks: Ranks) -> None:
    lock = path.with_name(f".{path.stem}.lock")
    if not _is_whole(path, key):
        make_folder(path.parent)
        with locked(lock):
            if not _is_whole(path, key):
                write(path)
                return
    elif has_shards(path):
        with suppress(OSError), locked(lock):  # another's, or a folder only to be read
            finished(path, key)
    ranks.told()  # that there is nothing to write


def write_together(
    path: Path,
    key: dict[str, Any],
    batches: Callable[[int, int], Iterable[Arrays]],
    num_batches: int,
    batches_per_shard: int,
    ranks: Ranks,
) -> None:
    """Write a cache file, its missing shards divided among ranks, in the same bytes as by one.

    `batches(start, stop)` yields the batches of these numbers, each a dict of `features` and `rows`. Ranks other than
    the first write what it tells them, which may be nothing, into the folder that it has opened.

    Raises:
        ValueError: nothing could be read.
        OSError: a rank does not see the first one's folder.
    """
    told = False

    def make(shards: Shards, missing: list[int]) -> dict[int, Path]:
        nonlocal told
        told, missing = True, json.loads(ranks.told(json.dumps(missing).encode()) or "[]")
        if missing and not shards.work.is_there():
            raise OSError(f"the first rank's {shards.folder} is not seen here: all ranks need one cache folder")
        own, done = missing[ranks.share(len(missing))], dict[int, Path]()
        for _, run in groupby(enumerate(own), key=lambda pair: pair[1] - pair[0]):  # numbers that follow one another
            numbers = [number for _, number in run]
            made = iter(batches(shards.batches(numbers[0]).start, shards.batches(numbers[-1]).stop))
            done |= {number: shards.write(number, made) for number in numbers}
        names = torch.tensor([list(done[number].name.encode()) for number in own], dtype=torch.uint8)
        names = ranks.gather_rows(names.reshape(-1, NAME_LENGTH), ranks.counts(len(missing)))
        return {i: shards.folder / bytes(name.tolist()).decode() for i, name in zip(missing, names, strict=True)}

    if not ranks.first:
        make(shards_of(path, num_batches, batches_per_shard, key), [])
        return
    write_in_shards(path, lambda start: (), num_batches, batches_per_shard, key, require="rows", make=make)
    if not told:  # a killed run had made all shards
        ranks.told()


def _is_whole(path: Path, key: dict[str, Any]) -> bool:
    if read_key(path) != key:
        return False
    with suppress(OSError):
        if damaged_dataset(path) is None:
            return True
    logger.warning("%s is damaged: it is made again", path)
    return False
