"""Bundles to alter: of version 0.1's files, with a manifest that is made to match whatever they became."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mecoq_faiss import evaluate, export_index, search, tune
from mecoq_faiss.bundle.folder import FILES, ITEMS

OLD = Path(__file__).parents[1] / "version_0_1"
N, WIDTH = 60, np.load(OLD / "features.npy").shape[1]


def old_bundle(folder: Path, kind: str = "pq") -> Path:
    """A copy of a bundle of 60 items, M=2, nbits=4, d=8; its items have labels. `queries.h5` lies beside it."""
    bundle = Path(shutil.copytree(OLD / f"bundle-{kind}", folder / "bundle"))
    with h5py.File(bundle / ITEMS, "r+") as file:
        file["labels"] = np.arange(N) % 2
        file.attrs["class_names"] = ["a", "b"]
    with h5py.File(folder / "queries.h5", "w") as file:
        file["features"] = np.load(OLD / "features.npy")[:8]
        file["labels"] = [0, 1] * 4
        file["class_names"] = ["a", "b"]
    sign(bundle)
    return bundle


def sign(bundle: Path) -> None:
    """Sizes and SHA-256 of the files as they are, put into the manifest."""
    with altered_manifest(bundle) as manifest:
        for name in FILES:
            content = (bundle / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@contextmanager
def altered_manifest(bundle: Path) -> Iterator[dict[str, Any]]:
    """The manifest, to be changed and written."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    yield manifest
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def jobs(bundle: Path) -> dict[str, Callable[[], object]]:
    """What a user does with a bundle, by name."""
    queries = bundle.with_name("queries.h5")
    return {
        "search": lambda: search(bundle, queries, 3),
        "evaluate": lambda: evaluate(bundle, queries, workers=0),
        "tune": lambda: tune(bundle, queries, workers=0),
        "export-index": lambda: export_index(bundle, None, bundle.with_name("new"), codes=bundle / ITEMS),
    }
