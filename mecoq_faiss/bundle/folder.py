"""The folder an application gets: index.faiss, items.h5, encoder/, manifest.json. Reading and checking it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from mecoq_faiss.bundle.schema import METADATA, check_manifest
from mecoq_faiss.storage.files import check_mode, sha256, write_text
from mecoq_faiss.storage.hdf5_checked import Wanted, open_checked, read_attribute, read_texts

# 1: one file of items, none of them removed; 2: several, or some removed; 3: metadata; 4: additive codes; 5: shards
FORMAT, OF_ADDITIVE = 5, 4
TRIES, WAIT = 3, 0.1  # for a bundle that is away for the moment in which another takes its place
MANIFEST = "manifest.json"
INDEX = "index.faiss"
ITEMS = "items.h5"
ENCODER_FILES = ("encoder/config.json", "encoder/model.safetensors")
FILES = (INDEX, ITEMS, *ENCODER_FILES)
ONNX = "encoder.onnx"  # the encoder as one graph, where it was asked for; who does not know it does without
MOST_BYTES = 1 << 22  # of a manifest, which takes 2 KB
ITEM_DATASETS = {
    "codes": Wanted((2,), ("u1",)),
    "ids": Wanted((1,), ("i8",)),
    "paths": Wanted((1,), ("text",)),
    "labels": Wanted((1, 2), ("i8", "u1"), required=False),
    "size": Wanted((1,), ("i8",), required=False),
    "mtime_ns": Wanted((1,), ("i8",), required=False),
    "sha256": Wanted((2,), ("u1",), required=False),
    "error": Wanted((1,), ("f4",), required=False),
}
FILE_NAME = re.compile(
    r"items-\d{6}\.h5|removed\.npy|metadata\.parquet|encoder\.onnx"
)  # of the files that a bundle may have beside FILES


def is_bundle(path: str | Path) -> bool:
    """Whether the folder holds a manifest."""
    return (Path(path) / MANIFEST).is_file()


def write_manifest(
    bundle: Path,
    content: dict[str, Any],
    names: Iterable[str] = FILES,
    known: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Write the manifest of finished files: `content`, the format, and every file's size and SHA-256.

    Args:
        bundle: the folder.
        content: all but `format` and `files`.
        names: the files.
        known: entries of files that need not be read again.
    """
    files = {name: (known or {}).get(name) or _entry(bundle / name) for name in names}
    number = 3 if METADATA in files else 2 if files.keys() - {*FILES, ONNX} else 1
    number = OF_ADDITIVE if content.get("codes") == "additive" else number
    write_text(bundle / MANIFEST, json.dumps({"format": number, **content, "files": files}, indent=2) + "\n")


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def read_manifest(bundle: str | Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of a newer version.
    """
    with pinned(bundle, ()) as files:
        return files.manifest


def verify_files(bundle: str | Path, names: Iterable[str] | None = None) -> None:
    """Compare files, by default all, with the manifest's sizes and SHA-256; ValueError names the first that differs."""
    with pinned(bundle, names) as files:
        for name in files.names:
            files.file(name)


class Pinned:
    """Open files of one bundle, and the manifest that they are checked against; see `pinned`."""

    def __init__(self, bundle: Path, manifest: dict[str, Any], files: dict[str, BufferedReader]) -> None:
        self.bundle, self.manifest, self._files = bundle, manifest, files
        self._checked: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the opened files."""
        return tuple(self._files)

    def file(self, name: str) -> BufferedReader:
        """An open file, at its start; ValueError where it is not as the manifest says."""
        file = self._files[name]
        if name not in self._checked:
            self._check(name, file)
            self._checked.add(name)
        file.seek(0)
        return file

    def _check(self, name: str, file: BufferedReader) -> None:
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise lacking(self.bundle, name)
        same = os.fstat(file.fileno()).st_size == entry["bytes"]
        if same and hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]:
            return
        mend = "export or copy it again"
        if name == INDEX:
            mend += "; an index that images were added to is searched with FAISS itself, and belongs outside the bundle"
        raise ValueError(f"{self.bundle / name} differs from the manifest (truncated or altered): {mend}")


@contextmanager
def pinned(bundle: str | Path, names: Iterable[str] | None = None) -> Iterator[Pinned]:
    """The manifest and some files of a bundle, opened together: of one export, whatever takes the bundle's place.

    An export is replaced by renaming folders. The files are opened in the folder that was there first, wherever it is
    by then; on Windows, which cannot do that, the open manifest keeps its folder from being renamed. Without `names`
    they are all files of the manifest.

    Raises FileNotFoundError where there is no bundle, ValueError where it is damaged or of a newer version.
    """
    bundle = Path(bundle)
    with ExitStack() as stack:
        yield _pin(bundle, None if names is None else tuple(names), stack)


def _pin(bundle: Path, names: tuple[str, ...] | None, stack: ExitStack) -> Pinned:
    for attempt in range(TRIES):
        time.sleep(WAIT if attempt else 0)
        with ExitStack() as opened:
            try:
                pin = _open_all(bundle, names, opened)
            except _Missing as error:  # perhaps the bundle is being replaced
                missing = error
                continue
            stack.push(opened.pop_all())
            return pin
    if missing.name != MANIFEST:
        raise lacking(bundle, missing.name)
    raise FileNotFoundError(f"{bundle} is not a bundle (no {MANIFEST}): give a folder that export-index made")


def encoder_files(files: Pinned) -> list[str]:
    """The names of the encoder's files in a bundle of which all files are opened."""
    return [*ENCODER_FILES, *({ONNX} & set(files.names))]


def shard_names(manifest: dict[str, Any]) -> list[str]:
    """The folders of a bundle's shards in their order; none of a bundle without."""
    return [shard["folder"] for shard in manifest.get("shards", ())]


def first_shard(bundle: Path) -> Path:
    """The first shard of a bundle in shards, which has the encoder of all; of any other folder itself."""
    if not (bundle / MANIFEST).is_file():
        return bundle
    names = shard_names(read_manifest(bundle))
    return bundle / names[0] if names else bundle


def in_shards(bundle: Path, manifest: dict[str, Any]) -> str:
    """What to say where one index is wanted, and there are several."""
    first, count = manifest["shards"][0]["folder"], len(manifest["shards"])
    return f"{bundle} is in {count} shards, which this does not take: give one of them, such as {bundle / first}"


def lacking(bundle: Path, name: str) -> ValueError:
    """The error of a bundle without one of its files."""
    mend = "export it with --onnx, or take runtime='torch'" if name == ONNX else "export or copy the bundle again"
    return ValueError(f"{bundle} lacks {name}: {mend}")


class _Missing(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


def _open_all(bundle: Path, names: tuple[str, ...] | None, stack: ExitStack) -> Pinned:
    folder: int | None = None

    def opened(name: str) -> BufferedReader:
        without_waiting = getattr(os, "O_NONBLOCK", 0)  # a FIFO in a file's place

        def in_folder(path: str, flags: int) -> int:
            flags |= without_waiting
            return os.open(path, flags) if folder is None else os.open(name, flags, dir_fd=folder)

        try:
            file = stack.enter_context(open(bundle / name, "rb", opener=in_folder))  # noqa: SIM115
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _Missing(name) from error
        check_mode(bundle / name, os.fstat(file.fileno()).st_mode)
        return file

    if os.open in os.supports_dir_fd:
        try:
            folder = os.open(bundle, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _Missing(MANIFEST) from error
        stack.callback(os.close, folder)
    manifest = _parse_manifest(opened(MANIFEST), bundle)
    if "shards" in manifest and names != ():
        raise ValueError(in_shards(bundle, manifest))
    if names is None:
        names = (*FILES, *(name for name in manifest["files"] if FILE_NAME.fullmatch(name) and name not in FILES))
    return Pinned(bundle, manifest, {name: opened(name) for name in names})


def _parse_manifest(file: BufferedReader, bundle: Path) -> dict[str, Any]:
    text = file.read(MOST_BYTES + 1)
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES:,} bytes")
        manifest = json.loads(text.decode(), parse_constant=_refuse_constant)
        version = manifest["format"]
        if type(version) is not int or version < 1 or not isinstance(manifest["files"], dict):
            raise TypeError("wrong types")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged ({error}): export the bundle again") from error
    if version > FORMAT:
        raise ValueError(
            f"{bundle} was made by a newer mecoq-faiss (format {str(version)[:20]}, this one reads {FORMAT}): upgrade"
        )
    check_manifest(manifest, bundle)
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def open_items(source: str | Path | BinaryIO, n: int | None = None) -> AbstractContextManager[dict[str, h5py.Dataset]]:
    """The datasets of an encoded file or a bundle's items.h5, checked; see `open_checked`. `n` items, where known."""
    return open_checked(source, ITEM_DATASETS, what="a file of codes", mend="encode the images again", rows=n)


def read_items(source: str | Path | BinaryIO) -> dict[str, Any]:
    """Codes (n, M) uint8, ids, paths, labels (or None), class_names of an encoded file or a bundle's items.h5.

    Raises FileNotFoundError, or ValueError for a file that holds no such items of its own.
    """
    with open_items(source) as datasets:
        file = datasets["codes"].file
        items: dict[str, Any] = {name: datasets[name][:] for name in ("codes", "ids")}
        items["paths"] = read_texts(datasets["paths"])
        items["labels"] = datasets["labels"][:] if "labels" in datasets else None
        names, nbits = (read_attribute(file, name) for name in ("class_names", "nbits"))
    where = source if isinstance(source, str | Path) else source.name
    names = np.asarray([] if names is None else names)
    if names.ndim != 1 or not all(isinstance(name, str) for name in names.tolist()):
        raise ValueError(f"{where}: its class_names are no list of names: encode the images again")
    if not isinstance(nbits, int | np.integer) or nbits not in (4, 8):
        raise ValueError(f"{where} is not a file of codes (its nbits are no 4 or 8): encode the images again")
    return items | {"class_names": names.tolist(), "nbits": int(nbits)}
