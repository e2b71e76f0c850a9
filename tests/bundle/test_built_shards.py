"""Shards that are built one by one, as workers on several machines would, and assembled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, open_bundle, train, verify
from mecoq_faiss.bundle.built import build_bundle, finish_bundle
from mecoq_faiss.bundle.built_shards import shared_options
from mecoq_faiss.bundle.encoded import encode_source
from mecoq_faiss.bundle.items import Items
from mecoq_faiss.bundle.sharded import write_sharded
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.storage.shards import map_array

N, EDGES = 200, [0, 64, 128, 200]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assembled")
    rng = np.random.default_rng(0)
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = rng.normal(size=(40, 12)).astype(np.float32)[rng.integers(0, 40, N)]
        file["paths"] = [f"{i:03}.jpg" for i in range(N)]
    model = ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=4, nbits=4)
    train(folder / "x.h5", folder / "run", model, TrainConfig(epochs=1, batch_size=50, workers=0))
    return folder


@pytest.mark.parametrize(
    ("kind", "options"), [("pq", {}), ("ivfpq", {"nlist": 8, "nprobe": 3}), ("ivfpqfs", {"refine": True})]
)
@pytest.mark.parametrize("own_ids", [False, True])
def test_they_are_what_one_export_makes(
    made: Path, tmp_path: Path, kind: str, options: dict[str, Any], own_ids: bool
) -> None:
    encoder, source = load_encoder(made / "run"), open_source(made / "x.h5", "database")
    files = [tmp_path / f"{number}.h5" for number in range(3)]
    for file, (start, end) in zip(files, pairwise(EDGES), strict=True):  # a worker each
        encode_source(encoder, source.subset(np.arange(start, end)), file, embeddings=None, workers=0)
    with Items(files) as encoded:  # the driver
        shared = shared_options(encoder, encoded.codes, kind, options, encoded.sizes)
    for number, (file, start) in enumerate(zip(files, EDGES[:-1], strict=True)):  # a worker each
        shard = tmp_path / "bundle" / f"shard-{number:06d}"
        shard.mkdir(parents=True)
        ids = start + np.array(map_array(file, "ids"))
        content = build_bundle(shard, encoder, file, kind, shared, ids=ids, own_ids=own_ids, source=source.name)
        finish_bundle(shard, content)
    manifest = write_sharded(tmp_path / "bundle")  # the driver

    ids_given = "auto" if own_ids else None
    export_index(made / "run", made / "x.h5", tmp_path / "one", kind=kind, ids=ids_given, workers=0, **options)
    assert manifest["counts"] == {"items": N} and verify(tmp_path / "bundle")["items"] == N
    xq = np.random.default_rng(1).normal(size=(9, 12)).astype(np.float32)
    with open_bundle(tmp_path / "bundle") as shards, open_bundle(tmp_path / "one") as one:
        k = 5 if "refine" in options else 20
        assert shards.search(xq, k) == one.search(xq, k)
