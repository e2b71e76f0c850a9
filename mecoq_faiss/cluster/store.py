"""Store: an encoded file and its shards at a URL of fsspec, for workers that share no folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mecoq_faiss.bundle.encoded import Encoding
from mecoq_faiss.runtime.cache import cache_folder, make_folder
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.shards import Shards


@dataclass(frozen=True)
class Store:
    """The place of one file, `url`; unfinished, its shards lie in the folder `URL.parts`, by what they depend on."""

    url: str

    def exists(self) -> bool:
        """Whether the file is there."""
        with _system(self.url) as (system, path):
            return system.exists(path)

    def write(self, encoding: Encoding, shards: Shards, i: int) -> str:
        """Write shard i, unless it is there; gives its name."""
        with _system(self._folder(shards)) as (system, folder):
            there = system.glob(f"{folder}/{i:06d}-*.h5")
        if there:
            return PurePosixPath(there[0]).name
        with tempfile.TemporaryDirectory() as temporary:
            here = replace(shards, folder=Path(temporary) / "parts")
            with here.work.opened():
                numbers = shards.batches(i)
                written = here.write(i, encoding.batches(numbers.start, numbers.stop))
                self._put(written, f"{self._folder(shards)}/{written.name}")
        return written.name

    def fetch(self, shards: Shards, name: str) -> Path:
        """Copy a shard into the folder of those that are joined; gives its path there."""
        with _system(f"{self._folder(shards)}/{name}") as (system, path), replacing(shards.folder / name) as temporary:
            system.get_file(path, str(temporary))
        return shards.folder / name

    def made(self, make: Callable[[Path], int]) -> int:
        """Have the file made here, in the cache, and put it into its place; then the shards go. What `make` gives.

        Raises FileExistsError where it is there already.
        """
        if self.exists():
            raise FileExistsError(f"{self.url} exists: choose another file")
        place = cache_folder() / f"out-{hashlib.sha256(self.url.encode()).hexdigest()[:24]}"
        make_folder(place)
        whole = place / "whole.h5"
        whole.unlink(missing_ok=True)  # of a command that was killed before it had put it into its place
        n = make(whole)
        self._put(whole, self.url)
        with _system(f"{self.url}.parts") as (system, path):
            system.rm(path, recursive=True)
        shutil.rmtree(place)
        return n

    def _folder(self, shards: Shards) -> str:
        key = json.dumps(shards.key, sort_keys=True)
        return f"{self.url}.parts/{hashlib.sha256(key.encode()).hexdigest()[:24]}"

    def _put(self, file: Path, url: str) -> None:
        """Under a temporary name first: not all systems show a file only when it is whole."""
        with _system(url) as (system, path):
            parent, _, name = path.rpartition("/")
            temporary = f"{parent}/.{name}.{os.getpid()}{secrets.token_hex(8)}.tmp"
            system.makedirs(parent, exist_ok=True)
            system.put_file(str(file), temporary)
            system.mv(temporary, path)


@contextmanager
def _system(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; its errors become OSErrors of one line."""
    from fsspec.core import url_to_fs  # Ray brings it

    try:
        yield url_to_fs(url)
    except ImportError:
        raise
    except Exception as error:  # each system has errors of its own
        line = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise OSError(f"{url} cannot be written: {line}") from error
