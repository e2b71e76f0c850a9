"""A bundle in shards: its folder, and that it answers as the bundle of one index does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, encode, export_index, load_encoder, open_bundle, train, verify
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.bundle.sharded import write_sharded
from tests.bundle.test_living import Stopped, stopped_at

N, SHARDS = 230, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features, many of them equal, with paths and metadata; runs of 8 and 4 bits, and of additive codes."""
    folder = tmp_path_factory.mktemp("sharded")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 12)).astype(np.float32)[rng.integers(0, 30, N)]
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = x
        file["paths"] = [f"{i:03}.jpg" for i in range(N)]
        file["labels"] = np.arange(N) % 3
    np.save(folder / "q.npy", rng.normal(size=(9, 12)).astype(np.float32))
    rows = "".join(f"{i:03}.jpg,{2000 + i % 20}\n" for i in range(100))  # of the first two shards alone
    (folder / "more.csv").write_text("path,year\n" + rows)
    runs: dict[str, dict[str, Any]] = {"8": {}, "4": {"nbits": 4}, "additive": {"codes": "additive"}}
    for name, more in runs.items():
        model = ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=4, **more)
        train(folder / "x.h5", folder / f"run{name}", model, TrainConfig(epochs=1, batch_size=50, workers=0))
    return folder


def pair(made: Path, run: str, kind: str, **options: Any) -> tuple[Path, Path]:
    """The same bundle as one and in shards, made once."""
    name = "-".join(map(str, [run, kind, *options.values()]))
    outs = made / f"one-{name}", made / f"shards-{name}"
    for out, shards in zip(outs, (None, SHARDS), strict=True):
        if not out.exists():
            export_index(made / f"run{run}", made / "x.h5", out, kind=kind, shards=shards, workers=0, **options)
    return outs


KINDS = [
    ("8", "pq", {}),
    ("4", "pqfs", {}),
    ("8", "ivfpq", {"nlist": 8, "nprobe": 2}),
    ("4", "ivfpqfs", {"nlist": 8, "nprobe": 2}),
    ("4", "pqfs", {"refine": True, "k_factor": 2.0}),
    ("8", "ivfpq-all", {}),
    ("additive", "pq", {}),
    ("additive", "ivfpq", {"nlist": 8, "nprobe": 2}),
]


@pytest.mark.parametrize(("run", "kind", "options"), KINDS)
def test_it_answers_as_the_one_index(made: Path, run: str, kind: str, options: dict) -> None:
    one, shards = (open_bundle(path) for path in pair(made, run, kind, **options))
    xq = np.load(made / "q.npy")

    with one, shards:
        assert len(one) == len(shards) == N and one.top_score == shards.top_score
        for k in (1, 5, 10, *((100, N) if kind[-2:] != "fs" else ())):
            assert shards.search(xq, k) == one.search(xq, k)
        chosen = np.arange(3, N, 7)
        assert shards.search(xq, 6, where=chosen) == one.search(xq, 6, where=chosen)
        rows = np.array([N - 1, 0, 100, 5, 57])
        assert shards.paths(rows) == one.paths(rows)


def test_each_shard_is_a_bundle(made: Path) -> None:
    one, shards = pair(made, "8", "pq")
    manifest = read_manifest(shards)

    assert manifest["format"] == 5 and manifest["counts"]["items"] == N
    assert [entry["folder"] for entry in manifest["shards"]] == [f"shard-00000{i}" for i in range(SHARDS)]
    assert sum(faiss.read_index(str(path)).ntotal for path in shards.glob("shard-*/index.faiss")) == N
    assert len({os.stat(path).st_ino for path in shards.glob("shard-*/encoder/model.safetensors")}) == 1
    with open_bundle(shards / "shard-000002") as shard, h5py.File(one / "items.h5") as items:
        assert len(shard) == manifest["shards"][2]["items"]
        [hits] = shard.search(np.load(made / "q.npy")[:1], 3)
        assert [items["paths"].asstr()[hit.id] for hit in hits] == [hit.path for hit in hits]  # ids are global


def test_items_and_metadata_are_those_of_the_one(made: Path) -> None:
    options = {"metadata": made / "more.csv", "ids": "auto"}
    one, shards = (open_bundle(path) for path in pair(made, "8", "ivfpq", **options))
    xq = np.load(made / "q.npy")

    with one, shards, one.in_use() as whole, shards.in_use() as parts:
        rows = np.arange(N)
        for name in ("codes", "ids", "paths", "labels", "queries_like"):
            np.testing.assert_array_equal(getattr(parts, name)(rows), getattr(whole, name)(rows))
        assert parts.metadata(range(N)) == whole.metadata(range(N)) and parts.columns == whole.columns
        assert parts.row_of(N - 1) == N - 1
        for where in ("year >= 2015", "year is null and label = '1'", "path like '1%' or year = 2003"):
            assert shards.search(xq, 10, where=where) == one.search(xq, 10, where=where)
        with pytest.raises(ValueError, match="the columns are id, path, label, year"):
            shards.search(xq, where="nothing = 1")


def test_codes_are_taken_from_files_and_bundles(made: Path, tmp_path: Path) -> None:
    encode(made / "run8", made / "x.h5", tmp_path / "codes.h5")
    one, shards = pair(made, "8", "pq")

    export_index(made / "run8", None, tmp_path / "a", codes=tmp_path / "codes.h5", shards=3)
    export_index(shards, None, tmp_path / "b", codes=shards)  # together again

    xq = np.load(made / "q.npy")
    with open_bundle(one) as whole, open_bundle(tmp_path / "a") as a, open_bundle(tmp_path / "b") as b:
        assert whole.search(xq, 20) == a.search(xq, 20) == b.search(xq, 20)


def test_another_generation_is_taken_up(made: Path, tmp_path: Path) -> None:
    shutil.copytree(pair(made, "8", "pq")[1], tmp_path / "bundle")
    with open_bundle(tmp_path / "bundle") as bundle:
        assert not bundle.reload()
        shutil.rmtree(tmp_path / "bundle")
        shutil.copytree(pair(made, "8", "ivfpq", nlist=8, nprobe=2)[1], tmp_path / "bundle")
        assert bundle.reload() and bundle.manifest["kind"] == "ivfpq"


def test_the_encoder_is_that_of_any_shard(made: Path) -> None:
    one, shards = pair(made, "8", "pq")
    xq = np.load(made / "q.npy")
    np.testing.assert_array_equal(load_encoder(one).encode(xq), load_encoder(shards).encode(xq))


def damaged(made: Path, folder: Path) -> Path:
    shutil.copytree(pair(made, "8", "ivfpq", nlist=8, nprobe=2)[1], folder / "bundle")
    return folder / "bundle"


def test_what_was_altered_is_refused(made: Path, tmp_path: Path) -> None:
    bundle = damaged(made, tmp_path)
    manifest = bundle / "shard-000001" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ValueError, match="shard-000001 is not the one that the manifest tells of"):
        open_bundle(bundle)
    shutil.rmtree(bundle / "shard-000001")
    with pytest.raises(FileNotFoundError, match="shard-000001 is not a bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "shards", [[], 3, [3], [{"folder": "../x", "items": N, "bytes": 1, "sha256": "0" * 64}], "twice", "fewer"]
)
def test_a_manifest_that_cannot_be_is_refused(made: Path, tmp_path: Path, shards: Any) -> None:
    bundle = damaged(made, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    told = manifest["shards"]
    manifest["shards"] = (
        {"twice": [*told[:-1], told[0]], "fewer": told[1:]}.get(shards, shards) if isinstance(shards, str) else shards
    )
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged"):
        open_bundle(bundle)


def test_shards_that_do_not_belong_together_are_refused(made: Path, tmp_path: Path) -> None:
    bundle = damaged(made, tmp_path)
    other = bundle / "shard-000001"

    def with_other(source: Path) -> None:
        shutil.rmtree(other)
        shutil.copytree(source, other)
        write_sharded(bundle)

    with pytest.raises(ValueError, match="has kind='pq', shard-000000 'ivfpq': build them with the same settings"):
        with_other(pair(made, "8", "pq")[0])
    with pytest.raises(ValueError, match="id 0 is an item's of shard-000000 and of shard-000001"):
        with_other(bundle / "shard-000000")
    export_index(made / "run8", made / "x.h5", tmp_path / "lists", kind="ivfpq", nlist=8, nprobe=2, seed=5, workers=0)
    with pytest.raises(ValueError, match="shard-000001 has other centroids than shard-000000"):
        with_other(tmp_path / "lists")
    with pytest.raises(ValueError, match="has no shards"):
        write_sharded(tmp_path)


def test_more_shards_than_items(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"shards={N + 1} is out of range: choose 1 to {N} for {N} items"):
        export_index(made / "run8", made / "x.h5", tmp_path / "out", shards=N + 1)


def test_a_stopped_export_leaves_nothing_or_what_continues(made: Path, tmp_path: Path) -> None:
    out, stopped = tmp_path / "out", 0
    for event in range(0, 200, 11):
        try:
            with stopped_at(event):
                export_index(made / "run8", made / "x.h5", out, shards=3, workers=0)
            break
        except Stopped:
            stopped += 1
        if out.exists():
            verify(out)

    if not out.exists():
        export_index(made / "run8", made / "x.h5", out, shards=3, workers=0)
    one, xq = pair(made, "8", "pq")[0], np.load(made / "q.npy")
    with open_bundle(one) as whole, open_bundle(out) as shards:
        assert shards.search(xq, 20) == whole.search(xq, 20)
    assert stopped > 3 and not (tmp_path / "out.partial").exists()
