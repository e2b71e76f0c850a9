"""The readers under test, one target each: what it reads, from which valid inputs, and how these are altered.

A further reader is a function and one line in `TARGETS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from tests.fuzz import mutators, seeds, tables
from tests.fuzz.command_line import command_line, command_lines
from tests.fuzz.harness import Reader, Target
from tests.fuzz.seeds import KINDS, OLD
from tests.python2_pickle import python2_pickle


def manifest(folder: Path) -> Reader:
    """manifest.json of a bundle."""
    from mecoq_faiss.bundle.folder import read_manifest
    from mecoq_faiss.bundle.items import segment_names

    def read(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        segment_names(read_manifest(folder))

    return read


def index(folder: Path) -> Reader:
    """index.faiss of a bundle whose manifest matches it; what is believed is searched. The first byte is the kind."""
    from mecoq_faiss.bundle.folder import pinned
    from mecoq_faiss.bundle.stored_index import index_in

    bundles = [Path(shutil.copytree(OLD / f"bundle-{kind}", folder / kind)) for kind in KINDS]
    manifests = [json.loads((bundle / "manifest.json").read_text()) for bundle in bundles]

    def read(data: bytes) -> None:
        number, content = (data[0] if data else 0) % len(KINDS), data[1:]
        bundle, told = bundles[number], manifests[number]
        (bundle / "index.faiss").write_bytes(content)
        told["files"]["index.faiss"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bundle / "manifest.json").write_text(json.dumps(told))
        with pinned(bundle) as files:
            found = index_in(files)
            found.search(np.ones((2, found.d), np.float32), 3)

    return read


def items(folder: Path) -> Reader:
    """items.h5 of a bundle, or an encoded file: every column of it."""
    from mecoq_faiss.bundle.folder import read_items
    from mecoq_faiss.bundle.items import Items
    from mecoq_faiss.storage.hdf5 import damaged_dataset
    from mecoq_faiss.storage.shards import read_key

    path = folder / "items.h5"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_key(path)
        damaged_dataset(path)
        read_items(path)
        with Items([path], np.array([1], np.int64)) as held:
            for name in ("codes", "ids", "size", "mtime_ns", "sha256", "error"):
                held.column(name)
            held.paths(np.arange(min(len(held), 3)))
            held.labels()

    return read


def features(folder: Path) -> Reader:
    """An .h5 file of features, with paths and labels."""
    return _features(folder / "features.h5")


def npy(folder: Path) -> Reader:
    """A .npy file of features."""
    return _features(folder / "features.npy")


def _features(path: Path) -> Reader:
    from mecoq_faiss.data.sources import FeatureSource, open_source

    def read(data: bytes) -> None:
        path.write_bytes(data)
        source = open_source(str(path), "train")
        assert isinstance(source, FeatureSource)
        source.check_finite()
        source.subset([0]).vectors(np.array([0]))
        source.digest(len(source) - 1)

    return read


def removed(folder: Path) -> Reader:
    """removed.npy of an updated bundle."""
    from mecoq_faiss.bundle.items import read_removed

    path = folder / "removed.npy"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with open(path, "rb") as file:
            read_removed(file)

    return read


def ids(folder: Path) -> Reader:
    """A .npy file of own ids."""
    from mecoq_faiss.data.own_ids import read_ids
    from mecoq_faiss.index import check_ids

    path = folder / "ids.npy"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        check_ids(read_ids(path), 4)

    return read


def run_config(folder: Path) -> Reader:
    """config.json of a run."""
    from mecoq_faiss.training.run_folder import RunFolder

    def read(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        RunFolder(folder).read_config()

    return read


def metrics(folder: Path) -> Reader:
    """metrics.jsonl of a run, which never stops it."""
    from mecoq_faiss.training.run_folder import RunFolder

    def read(data: bytes) -> None:
        (folder / "metrics.jsonl").write_bytes(data)
        RunFolder(folder).rewind_metrics(2, 3)

    return read


def split(folder: Path) -> Reader:
    """split.json of a run."""
    from mecoq_faiss.data.sources import open_source
    from mecoq_faiss.training.start import check_same_data

    source = open_source(str(OLD / "features.npy"), "train")

    def read(data: bytes) -> None:
        (folder / "split.json").write_bytes(data)
        check_same_data(folder / "split.json", source)

    return read


def settings(folder: Path) -> Reader:
    """A TOML file of settings."""
    from mecoq_faiss.config import make_configs
    from mecoq_faiss.presets import settings_for

    path = folder / "settings.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        make_configs(**settings_for("default", path))

    return read


def checkpoint(folder: Path) -> Reader:
    """last.pt of a run, compared with the run's model and optimizer and put into place."""
    from mecoq_faiss.training.contrast import Contrast
    from mecoq_faiss.training.last_state import load_state
    from mecoq_faiss.training.model_file import load_model
    from mecoq_faiss.training.run_folder import RunFolder

    run = RunFolder(shutil.copytree(OLD / "run-stopped", folder / "run"))
    model_config, train_config = run.read_config()
    objective = Contrast(load_model(model_config, run.model_file), train_config)
    optimizer = objective.optimizer()

    def read(data: bytes) -> None:
        run.state_file.write_bytes(data)
        run.next_epoch()
        load_state(run, objective, optimizer, 3, True)

    return read


def model(folder: Path) -> Reader:
    """model.safetensors of a run or of a bundle."""
    from mecoq_faiss.training.model_file import load_model
    from mecoq_faiss.training.run_folder import RunFolder

    config, _ = RunFolder(OLD / "run").read_config()
    path = folder / "model.safetensors"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_model(config, path)

    return read


def weights(folder: Path) -> Reader:
    """A user's weights for a backbone; the first byte says of which kind the file is."""
    import torch

    from mecoq_faiss.backbone.weights import load_weights

    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

    def read(data: bytes) -> None:
        path = folder / ("net.safetensors" if data[:1] == b"s" else "net.pth")
        path.write_bytes(data[1:])
        load_weights(net, path, ("head",))

    return read


def image(folder: Path) -> Reader:
    """An image's bytes."""
    from mecoq_faiss.data.images import decode_image

    return lambda data: decode_image(data, draft=8)


def tar(folder: Path) -> Reader:
    """A tar of images, plain or packed, and its first members."""
    from mecoq_faiss.data.images import UnreadableImage
    from mecoq_faiss.data.stores import TarStore

    os.environ["TMPDIR"] = str(folder)
    path = folder / "images.tar"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        store = TarStore(path)
        for i in range(min(3, len(store.names))):
            store.size_and_time(i)
            store.digest(i)
            try:
                store.decode(i)
            except UnreadableImage as error:
                if len(str(error).splitlines()) > 1:
                    raise

    return read


def cifar(folder: Path) -> Reader:
    """A batch of CIFAR-10's own files, which are pickles."""
    from mecoq_faiss.data.cifar10_batches import read_cifar10_batches

    good = seeds.cifar_batches()[0]
    (folder / "batches.meta").write_bytes(b"\x80\x02" + python2_pickle({"label_names": ["a", "b"]}) + b".")
    for name in (*(f"data_batch_{i}" for i in range(2, 6)), "test_batch"):
        (folder / name).write_bytes(good)

    def read(data: bytes) -> None:
        (folder / "data_batch_1").write_bytes(data)
        read_cifar10_batches(folder)

    return read


TARGETS = {
    target.name: target
    for target in (
        Target("manifest", manifest, seeds.manifests, 40_000, mutators.as_json),
        Target("config", run_config, seeds.configs, 100_000, mutators.as_json),
        Target("metrics", metrics, seeds.records, 100_000),
        Target("split", split, seeds.splits, 150_000, mutators.as_json),
        Target("settings", settings, seeds.settings, 200_000, mutators.as_toml),
        Target("items", items, seeds.items_files, 5_000, mutators.as_hdf5),
        Target("features", features, seeds.features_files, 5_000, mutators.as_hdf5),
        Target("npy", npy, seeds.npy_features, 40_000, mutators.as_npy),
        Target("removed", removed, seeds.npy_rows, 40_000, mutators.as_npy),
        Target("ids", ids, seeds.npy_ids, 40_000, mutators.as_npy),
        Target("index", index, seeds.indexes, 15_000),
        Target("checkpoint", checkpoint, seeds.checkpoints, 10_000, mutators.as_zip, 1 << 15),
        Target("model", model, seeds.models, 30_000, mutators.as_safetensors),
        Target("weights", weights, seeds.weights_files, 60_000),
        Target("image", image, seeds.images, 60_000, mutators.as_image),
        Target("tar", tar, seeds.tars, 20_000, mutators.as_tar),
        Target("cifar", cifar, seeds.cifar_batches, 200_000),
        Target("where", tables.where, tables.conditions, 20_000, tables.as_condition, 1 << 12),
        Target("metadata", tables.metadata, tables.tables, 20_000),
        Target("command-line", command_line, command_lines, 15_000, mutators.as_arguments),
    )
}
