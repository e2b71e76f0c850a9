"""Tiny collections, the commands at work on them, and what must be equal of what they make."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image

from tests.faults.child import run

QUICK = ["--bits", "16", "--dim", "16", "--set", "hidden=16", "--epochs", "2", "--batch-size", "20", "--workers", "0"]
FEATURES = ["train", "--data", "f.h5", "--backbone", "features", *QUICK]
PICTURES = ["train", "--data", "photos", "--backbone", "pixels", "--image-size", "8", "--views", "2", *QUICK]
RUN, BUNDLE, PBUNDLE = "run", "bundle", "pbundle"


class Command(NamedTuple):
    """A command that writes.

    Attributes:
        arguments: as a user types them.
        needs: what of the world it is given.
        result: the name of what it makes or changes.
        done: what a repeat may say where the work was done already; it must have been done rightly.
    """

    arguments: list[str]
    needs: tuple[str, ...]
    result: str
    done: str | None = None


COMMANDS = {
    "train": Command([*FEATURES, "--out", "out", "--resume"], ("f.h5",), "out"),
    "train, view cache": Command([*PICTURES, "--out", "out", "--resume"], ("photos",), "out"),
    "encode": Command(["encode", RUN, "--data", "f.h5", "--out", "out.h5"], ("f.h5", RUN), "out.h5", "exists"),
    "export-index": Command(["export-index", RUN, "--data", "f.h5", "--out", "out"], ("f.h5", RUN), "out", "exists"),
    "update": Command(["update", BUNDLE, "--data", "g.h5"], ("g.h5", BUNDLE), BUNDLE),
    "add": Command(["add", PBUNDLE, "new.png"], ("new.png", PBUNDLE), PBUNDLE),
    "remove": Command(["remove", PBUNDLE, "a/000.png"], (PBUNDLE,), PBUNDLE, "has no item"),
}


def make_world(folder: Path) -> None:
    """The collections `f.h5` and, changed, `g.h5`; pictures; a run and a bundle of each; an updated bundle."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12)).astype(np.float32)
    names = [f"item-{i}" for i in range(60)]
    y = np.concatenate([x[2:], rng.normal(size=(3, 12)).astype(np.float32)])
    y[0] += 1
    for name, rows, paths in (("f.h5", x, names), ("g.h5", y, [*names[2:59], "renamed", "n1", "n2", "n3"])):
        with h5py.File(folder / name, "w") as file:
            file["features"], file["paths"] = rows, paths
    np.save(folder / "q.npy", x[:2])
    for i in range(41):
        path = folder / "photos" / "ab"[i % 2] / f"{i:03}.png" if i < 40 else folder / "new.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 255, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(small).resize((8, 8), Image.Resampling.BILINEAR).save(path)
    (folder / "bystander.txt").write_text("mine")
    for arguments in (
        [*FEATURES, "--out", RUN],
        [*PICTURES, "--out", "prun"],
        ["encode", RUN, "--data", "f.h5", "--out", "codes.h5"],
        ["export-index", RUN, "--data", "f.h5", "--out", BUNDLE],
        ["export-index", "prun", "--data", "photos", "--out", PBUNDLE],
        ["export-index", RUN, "--data", "f.h5", "--out", "updated"],
        ["update", "updated", "--data", "g.h5"],
    ):
        ended = run(folder, arguments)
        assert ended.code == 0, ended.err


def copy(world: Path, folder: Path, needs: tuple[str, ...]) -> Path:
    """A folder with what a command needs, and a file of the user's that is none of its business."""
    folder.mkdir(parents=True)
    for name in (*needs, "bystander.txt"):
        source = world / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        else:
            shutil.copy2(source, folder / name)
    return folder


def digest(path: Path) -> dict[str, str]:
    """SHA-256 by name of what must be equal: whole files, and of HDF5 files their datasets."""
    if path.is_dir():
        files = sorted(
            p for p in path.rglob("*") if p.is_file() and p.suffix in (".faiss", ".safetensors", ".npy", ".h5")
        )
        return {f"{p.relative_to(path)} {name}": d for p in files for name, d in digest(p).items()}
    if path.suffix != ".h5":
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    with h5py.File(path) as file:
        return {name: hashlib.sha256(_bytes(file[name][:])).hexdigest() for name in sorted(file)}


def _bytes(array: np.ndarray) -> bytes:
    return json.dumps([str(text) for text in array]).encode() if array.dtype == object else array.tobytes()


def listing(folder: Path) -> list[str]:
    """All names in a folder, of any depth; what is left beside them is a temporary file."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def untouched(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    """SHA-256 and time of writing of the files of the user's."""
    files = [p for name in (*names, "bystander.txt") for p in ([folder / name, *(folder / name).rglob("*")])]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files if p.is_file()}


def _replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a bit flipped": _flip,
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: _replace(path, path.mkdir),
    "a link to /etc/passwd": lambda path: _replace(path, lambda: path.symlink_to("/etc/passwd")),
    "a FIFO": lambda path: _replace(path, lambda: os.mkfifo(path)),
}
