"""What lies elsewhere (`s3://`, `https://`, ...), copied into the cache once, and again where it changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

from mecoq_faiss.data.features import FEATURE_TYPES
from mecoq_faiss.data.images import IMAGE_TYPES
from mecoq_faiss.data.sharded import SHARD_TYPES
from mecoq_faiss.runtime.cache import cache_folder, make_folder
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.storage.files import locked, replacing

TYPES = (*IMAGE_TYPES, *SHARD_TYPES, *FEATURE_TYPES, ".csv")
BLOCK = 1 << 20
NAME = "content"  # of the folder that holds a copy


def copied(url: str) -> Path:
    """A copy of what a URL of fsspec names, a file or a folder, in the cache; what is there as it is stays.

    Files that are gone there are removed from the copy. Each is known by its size, and its time or tag if there is one.

    Raises:
        FileNotFoundError: nothing there.
        ImportError: no fsspec, or none of what it needs for such a URL.
        OSError: what went wrong on the way, in one line.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(f"{url} needs fsspec: pip install fsspec, and what it needs for such addresses") from error
    try:
        system, root = url_to_fs(url)
        alone = system.isfile(root)
        there = {root: system.info(root)} if alone else system.find(root, detail=True)
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # each system has errors of its own
        raise OSError(f"{url} cannot be read: {_line(error)}") from error
    names = {_relative(path, root, alone): path for path, said in there.items() if _is_wanted(path, said)}
    if not names:
        raise FileNotFoundError(f"{url}: no file of images or features there")
    place = cache_folder() / f"copy-{hashlib.sha256(url.encode()).hexdigest()[:24]}"
    make_folder(place)
    with locked(place / ".lock"):
        for name in progress(sorted(names), total=len(names), label=f"copy {url}", unit="file"):
            _copy(system, names[name], there[names[name]], place / NAME / name, url)
        for file in list((place / NAME).rglob("*")):
            if file.is_file() and file.relative_to(place / NAME).as_posix() not in {*names, *map(_mark, names)}:
                file.unlink()
    return place / NAME / next(iter(names)) if alone else place / NAME


def _is_wanted(path: str, said: dict[str, Any]) -> bool:
    return said.get("type") != "directory" and path.lower().endswith(TYPES)


def _relative(path: str, root: str, alone: bool) -> str:
    """A path below its root, that cannot leave the copy's folder."""
    name = PurePosixPath(path).name if alone else path[len(root) :].lstrip("/") if path.startswith(root) else path
    if ".." in PurePosixPath(name).parts or name.startswith("/") or "\0" in name:
        raise ValueError(f"{path[:100]!r} is no name for a copy: it leads out of its folder")
    return name


def _mark(name: str) -> str:
    """The file beside a copy that says of which state it is; hidden, so no image."""
    path = PurePosixPath(name)
    return str(path.with_name(f".{path.name}.state"))


def _copy(system: Any, path: str, said: dict[str, Any], target: Path, url: str) -> None:
    known = ("size", "mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "md5Hash", "created")
    state = repr([(name, str(said[name])) for name in known if said.get(name) is not None])
    mark = target.with_name(_mark(target.name))
    if target.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == state:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with system.open(path, "rb") as source, replacing(target) as temporary, open(temporary, "wb") as out:
            while block := source.read(BLOCK):
                out.write(block)
            size = said.get("size")
            if size is not None and out.tell() != size:
                raise OSError(f"{out.tell():,} of {size:,} bytes arrived")
    except Exception as error:
        raise OSError(f"{url}: {PurePosixPath(path).name} cannot be copied: {_line(error)}") from error
    mtime = said.get("mtime")
    if isinstance(mtime, int | float):
        os.utime(target, (mtime, mtime))
    with replacing(mark) as temporary:
        temporary.write_text(state, encoding="utf-8")


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
