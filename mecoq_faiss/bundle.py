"""The folder an application gets: index.faiss, items.h5, encoder/, manifest.json. Reading and checking it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .files import sha256, write_text

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.faiss"
ITEMS = "items.h5"
ENCODER_FILES = ("encoder/config.json", "encoder/model.safetensors")
FILES = (INDEX, ITEMS, *ENCODER_FILES)


def is_bundle(path: str | Path) -> bool:
    return (Path(path) / MANIFEST).is_file()


def write_manifest(bundle: Path, content: dict[str, Any]) -> None:
    """Write the manifest of finished files: `content`, the format, and every file's size and SHA-256."""
    files = {name: {"bytes": (bundle / name).stat().st_size, "sha256": sha256(bundle / name)} for name in FILES}
    write_text(bundle / MANIFEST, json.dumps({"format": FORMAT, **content, "files": files}, indent=2) + "\n")


def read_manifest(bundle: str | Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of a newer version.
    """
    path = Path(bundle) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{bundle} is not a bundle (no {MANIFEST}): give a folder that export-index made")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
        if not isinstance(version, int) or not isinstance(manifest["files"], dict):
            raise TypeError("wrong types")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): export the bundle again") from error
    if version > FORMAT:
        raise ValueError(
            f"{bundle} was made by a newer mecoq-faiss (format {version}, this one reads {FORMAT}): upgrade"
        )
    return manifest


def verify_files(bundle: str | Path, names: Iterable[str] = FILES) -> None:
    """Compare files with the manifest's sizes and SHA-256; ValueError names the first that differs."""
    manifest = read_manifest(bundle)
    for name in names:
        path, entry = Path(bundle) / name, manifest["files"].get(name)
        if entry is None or not path.is_file():
            raise ValueError(f"{bundle} lacks {name}: export or copy the bundle again")
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            raise ValueError(f"{path} differs from the manifest (truncated or altered): export or copy it again")


def read_items(path: str | Path) -> dict[str, Any]:
    """Codes (n, M) uint8, ids, paths, labels (or None), class_names of an encoded file or a bundle's items.h5."""
    try:
        with h5py.File(path) as file:
            items: dict[str, Any] = {name: file[name][:] for name in ("codes", "ids")}
            items["paths"] = file["paths"].asstr()[:]
            items["labels"] = file["labels"][:] if "labels" in file else None
            items["class_names"] = [str(name) for name in file.attrs.get("class_names", [])]
            items["nbits"] = int(file.attrs["nbits"])
    except FileNotFoundError:
        raise
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a file of codes, or damaged ({error}): encode the images again") from error
    return items


def read_paths(path: str | Path, rows: np.ndarray) -> list[str]:
    """The paths of some rows of items.h5, without reading the others."""
    wanted, back = np.unique(rows, return_inverse=True)
    with h5py.File(path) as file:
        return [str(p) for p in file["paths"].asstr()[wanted][back]]
