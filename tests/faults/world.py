"""Tiny collections, the commands at work on them, and what must be equal of what they make."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image

from tests.faults.child import run

QUICK = ["--bits", "16", "--dim", "16", "--set", "hidden=16", "--epochs", "2", "--batch-size", "20"]
FEATURES = ["train", "--data", "f.h5", "--backbone", "features", "--objective", "semantic", *QUICK, "--workers", "0"]
PICTURES = ["train", "--data", "photos", "--backbone", "pixels", "--image-size", "8", *QUICK]
RUN, PRUN = "run", "prun"  # of features and of pictures
BUNDLE, PBUNDLE, UPDATED, TWICE, OTHER = "bundle", "pbundle", "updated", "twice", "other"
SHARDS = "shards"  # a bundle in three of them
HALVES = ("halves/part-1", "halves/part-2")
BYSTANDER, TEMPORARY = "bystander.txt", "tmp"
WHOLE = (".faiss", ".safetensors", ".npy", ".h5", ".csv")
TOLD = ("kind", "counts", "next_id", "segments", "nlist", "nprobe", "has_ids")  # by a manifest, beside times


class Command(NamedTuple):
    """A command that writes.

    Attributes:
        arguments: as a user types them.
        needs: what of the world it is given.
        result: the name of what it makes or changes.
        done: what a repeat may say where the work was done already; it must have been done rightly.
        at_once: whether its result appears, or changes, in one step.
    """

    arguments: list[str]
    needs: tuple[str, ...]
    result: str
    done: str | None = None
    at_once: bool = True


IVF = ["--index", "ivfpq", "--nlist", "2", "--nprobe", "2"]
COMMANDS = {
    "train": Command([*FEATURES, "--out", "out", "--resume"], ("f.h5",), "out", at_once=False),
    "train, view cache": Command(
        [*PICTURES, "--views", "2", "--workers", "0", "--out", "out", "--resume"], ("photos",), "out", at_once=False
    ),
    "encode": Command(["encode", RUN, "--data", "f.h5", "--out", "out.h5"], ("f.h5", RUN), "out.h5", "exists"),
    "encode, images": Command(
        ["encode", PRUN, "--data", "photos", "--out", "out.h5"], ("photos", PRUN), "out.h5", "exists"
    ),
    "export-index": Command(["export-index", RUN, "--data", "f.h5", "--out", "out"], ("f.h5", RUN), "out", "exists"),
    "export-index, IVF": Command(
        ["export-index", RUN, "--data", "f.h5", "--out", "out", *IVF, "--ids", "ids.npy"], ("f.h5", "ids.npy", RUN),
        "out", "exists",
    ),
    "export-index, codes": Command(
        ["export-index", RUN, "--codes", UPDATED, "--out", "out"], (UPDATED, RUN), "out", "exists"
    ),
    "export-index --shards": Command(
        ["export-index", RUN, "--data", "f.h5", "--out", "out", "--shards", "3", *IVF], ("f.h5", RUN), "out", "exists"
    ),
    "update": Command(["update", BUNDLE, "--data", "g.h5"], ("g.h5", BUNDLE), BUNDLE),
    "update, images": Command(["update", PBUNDLE, "--data", "later"], ("later", PBUNDLE), PBUNDLE),
    "update --compact": Command(["update", UPDATED, "--data", "f.h5", "--compact"], ("f.h5", UPDATED), UPDATED),
    "update, shards": Command(["update", SHARDS, "--data", "g.h5"], ("g.h5", SHARDS), SHARDS),
    "add": Command(["add", PBUNDLE, "new.png"], ("new.png", PBUNDLE), PBUNDLE),
    "remove": Command(["remove", PBUNDLE, "a/000.png"], (PBUNDLE,), PBUNDLE, "has no item"),
    "remove, shards": Command(["remove", SHARDS, "item-0", "item-59"], (SHARDS,), SHARDS, "has no item"),
    "dedup --remove": Command(["dedup", TWICE, "--remove", "--yes"], (TWICE,), TWICE),
    "merge": Command(["merge", *HALVES, "--out", "out"], ("halves",), "out", "exists"),
    "merge, shards": Command(
        ["merge", SHARDS, OTHER, "--out", "out", "--shards", "--new-ids"], (SHARDS, OTHER), "out", "exists"
    ),
    "split": Command(["split", BUNDLE, "--out-dir", "out", "--parts", "2"], (BUNDLE,), "out", "exists"),
    "split, shards": Command(["split", SHARDS, "--out-dir", "out", "--parts", "2"], (SHARDS,), "out", "exists"),
    "split, classes": Command(["split", PBUNDLE, "--out-dir", "out", "--by-class"], (PBUNDLE,), "out", "exists"),
}  # fmt: skip
WORKERS = {  # images read by processes of their own
    "train, decoding": Command(
        [*PICTURES, "--no-view-cache", "--workers", "2", "--out", "out", "--resume"], ("photos",), "out", at_once=False
    ),
    "train, view cache, decoding": Command(
        [*PICTURES, "--views", "2", "--workers", "2", "--out", "out", "--resume"], ("photos",), "out", at_once=False
    ),
    "encode, decoding": COMMANDS["encode, images"]._replace(
        arguments=[*COMMANDS["encode, images"].arguments, "--workers", "2"]
    ),
    "export-index, decoding": Command(
        ["export-index", PRUN, "--data", "photos", "--out", "out", "--workers", "2"], ("photos", PRUN), "out", "exists"
    ),
    "update, decoding": COMMANDS["update, images"]._replace(
        arguments=[*COMMANDS["update, images"].arguments, "--workers", "2"]
    ),
}


def make_world(folder: Path) -> None:
    """Collections and their changed ones, of features and pictures; a run of each; bundles, updated and divided."""
    copy(folder, folder, ())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12)).astype(np.float32)
    names = [f"item-{i}" for i in range(60)]
    y = np.concatenate([x[2:], rng.normal(size=(3, 12)).astype(np.float32)])
    y[0] += 1
    later = [*names[2:59], "renamed", "n1", "n2", "n3"]
    doubled = np.concatenate([x, x[:9]])
    for name, rows, paths in (
        ("f.h5", x, names),
        ("g.h5", y, later),
        ("d.h5", doubled, [*names, *(f"again-{i}" for i in range(9))]),
    ):
        with h5py.File(folder / name, "w") as file:
            file["features"], file["paths"] = rows, paths
    np.save(folder / "q.npy", x[:2])
    np.save(folder / "x.npy", x[:30] + 1)
    np.save(folder / "ids.npy", 7 + 3 * np.arange(60))
    for i in range(44):
        path = folder / "photos" / "ab"[i % 2] / f"{i:03}.png" if i < 40 else folder / f"new{i - 40 or ''}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 255, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(small).resize((8, 8), Image.Resampling.BILINEAR).save(path)
    shutil.copytree(folder / "photos", folder / "later")
    for i in range(4):
        shutil.copy2(folder / f"new{i or ''}.png", folder / "later" / "a" / f"new{i}.png")
    (folder / "later" / "a" / "000.png").unlink()
    (folder / "later" / "b" / "001.png").rename(folder / "later" / "b" / "moved.png")
    for arguments in (
        [*FEATURES, "--out", RUN],
        [*PICTURES, "--views", "2", "--workers", "0", "--out", PRUN],
        ["encode", RUN, "--data", "f.h5", "--out", "codes.h5"],
        ["export-index", RUN, "--data", "f.h5", "--out", BUNDLE],
        ["export-index", RUN, "--data", "f.h5", "--out", SHARDS, "--shards", "3"],
        ["export-index", PRUN, "--data", "photos", "--out", PBUNDLE],
        ["export-index", RUN, "--data", "d.h5", "--out", TWICE],
        ["export-index", RUN, "--data", "x.npy", "--out", OTHER],
        ["export-index", RUN, "--data", "f.h5", "--out", UPDATED],
        ["update", UPDATED, "--data", "g.h5"],
        ["split", BUNDLE, "--out-dir", "halves", "--parts", "2"],
    ):
        ended = run(folder, arguments)
        assert ended.code == 0, ended.err


def copy(world: Path, folder: Path, needs: tuple[str, ...]) -> Path:
    """A folder with what a command needs, and a file of the user's that is none of its business."""
    folder.mkdir(parents=True)
    for name in needs:
        source = world / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        else:
            shutil.copy2(source, folder / name)
    (folder / BYSTANDER).write_text("mine")
    (folder / TEMPORARY).mkdir()
    return folder


def digest(path: Path) -> dict[str, str]:
    """SHA-256 by name of what must be equal: whole files, of HDF5 files their datasets, of manifests what they tell."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix in WHOLE or p.name == "manifest.json"))
        return {f"{p.relative_to(path)} {name}": d for p in files for name, d in digest(p).items()}
    if not path.exists():
        return {}
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        return {name: json.dumps(manifest[name]) for name in TOLD if name in manifest}
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
    files = [p for name in (*names, BYSTANDER) for p in ([folder / name, *(folder / name).rglob("*")])]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files if p.is_file()}
