"""What a path is (a run, a bundle, an index or an encoded file), described; and the presets and kinds there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from mecoq_faiss.bundle.folder import is_bundle, read_manifest, shard_names
from mecoq_faiss.bundle.history import plot_history
from mecoq_faiss.index import describe_index, load_index
from mecoq_faiss.presets import PRESETS
from mecoq_faiss.storage.hdf5_checked import READ_ERRORS, one_line, plain_dataset
from mecoq_faiss.storage.hdf5_file import open_hdf5
from mecoq_faiss.training.run_folder import RunFolder

KINDS = {
    "pq": "IndexPQ, an exhaustive scan of 8-bit or 4-bit codes: exact, opens at once at any size",
    "pqfs": "IndexPQFastScan, an exhaustive scan of 4-bit codes in registers: many times faster; --refine scores again",
    "ivfpq": "IndexIVFPQ, a scan of the nprobe nearest of nlist lists: for millions of codes",
    "ivfpqfs": "IndexIVFPQFastScan, lists of 4-bit codes in registers: the fastest",
    "ivfpq-all": "IndexIVFPQ, all lists visited: the scores of pq, with FAISS's selectors of ids, for a GPU; 8-bit",
}
"""The kinds of index, a line each."""


def describe(path: str | Path) -> dict[str, Any]:
    """A flat description of a run folder, a bundle, a FAISS index file or an encoded .h5 file.

    Raises FileNotFoundError or ValueError where it is none of them, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a run, a bundle, an index or an .h5 file")
    if path.is_file():
        return _describe_h5(path) if h5py.is_hdf5(path) else _describe_index(path)
    if is_bundle(path):
        manifest = read_manifest(path)
        shards = [path / name for name in shard_names(manifest)]
        entries = manifest.pop("files") | _entries_of(shards)
        said = {"type": "bundle", **manifest, "bytes": sum(entry["bytes"] for entry in entries.values())}
        return said | ({"shards": len(shards)} if shards else {})
    return _describe_run(path)


def _entries_of(shards: Sequence[Path]) -> dict[str, Any]:
    """The files of shards, the encoder's once."""
    entries: dict[str, Any] = {}
    for shard in shards:
        for name, entry in read_manifest(shard)["files"].items():
            entries[name if name.startswith("encoder") else f"{shard.name}/{name}"] = entry
    return entries


def draw_history(path: str | Path, out: str | Path) -> None:
    """Draw a bundle's updates, its items and how far new ones drifted, into an .svg or .png file.

    Raises ValueError where there are none or the name ends otherwise, ImportError without matplotlib.
    """
    plot_history(read_manifest(path), out)


def _describe_run(path: Path) -> dict[str, Any]:
    run = RunFolder(path)
    model, train = run.read_config()
    epochs = [record for record in run.read_metrics() if "step" not in record]
    description: dict[str, Any] = {
        "type": "run",
        "backbone": model.backbone,
        "bits": model.bits,
        "M": model.M,
        "nbits": model.nbits,
        "D": model.D,
        "codes": model.codes,
        "epochs": f"{len(epochs)} of {train.epochs}",
        "finished": len(epochs) >= train.epochs,
    }
    if epochs:
        shown = ("codeword_usage", "codeword_similarity")
        description |= {name: epochs[-1][name] for name in shown if name in epochs[-1]}  # of a damaged line not
    return description


def _describe_index(path: Path) -> dict[str, Any]:
    index = load_index(path)
    try:
        return {"type": "index", **describe_index(index)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _describe_h5(path: Path) -> dict[str, Any]:
    try:
        with open_hdf5(path) as file:
            names = list(file)
            description: dict[str, Any] = {"type": "encoded" if "codes" in names else "features"}
            for name in names:
                dataset = plain_dataset(file, name, str(path), "write or copy it again", own=False)
                description[name] = f"{tuple(dataset.shape)} {dataset.dtype}"
    except (OSError, *READ_ERRORS) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}): write it again") from error
    return description


def describe_presets() -> dict[str, str]:
    """The presets, a line each."""
    lines = {"default": "this project's own recipe, for any images: frozen resnet50, cached views, 32 bits"}
    for name, s in PRESETS.items():
        if s:
            whose = "the paper's public release" if name.startswith("release-") else "the paper"
            layers = f"{s['trainable_layers']} layers learn" if s["trainable_layers"] else "frozen"
            lines[name] = (
                f"{whose}, {8 * s['M']} bits: {s['backbone']} at {s['image_size']} px ({layers}), D={s['D']}, "
                f"temperature {s['temperature']}, {s['epochs']} epochs of {s['optimizer'].upper()}"
            )
    return lines
