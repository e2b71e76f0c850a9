"""What the commands do with a bundle in shards: as with the bundle of one index, or one clear line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import (
    Hit,
    dedup,
    evaluate,
    export_index,
    export_items,
    merge,
    open_bundle,
    remove,
    split,
    tune,
    verify,
)
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.jobs.info import describe

N = 60


@pytest.fixture(scope="module")
def bundles(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the 60 pictures: in one, in shards, and halves of it with the centroids of all."""
    folder = tmp_path_factory.mktemp("in-shards")
    table = folder / "years.csv"
    rows = (f"{'ab'[i % 2]}/{i:03}.png,{2000 + i}\n" for i in range(20))
    table.write_text("path,year\n" + "".join(rows))
    options: dict[str, Any] = {"kind": "ivfpq", "nlist": 5, "nprobe": 2, "metadata": table, "workers": 0}
    export_index(start / "run-8", start / "photos", folder / "one", **options)
    for shards in (2, 3):
        export_index(start / "run-8", start / "photos", folder / f"in-{shards}", shards=shards, **options)
    return folder


def table_of(path: Path) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql(f"FROM read_parquet('{path}')")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def found(bundle: Path, queries: np.ndarray, where: str | None = None) -> list[list[Hit]]:
    with open_bundle(bundle) as opened, opened.in_use() as files:
        return files.search_vectors(queries, 25, where)


def test_the_same_as_of_one(bundles: Path, start: Path, tmp_path: Path) -> None:
    one, shards = bundles / "one", bundles / "in-3"

    assert evaluate(shards, start / "photos", k=20) == evaluate(one, start / "photos", k=20)
    assert dedup(shards, threshold=1.5) == dedup(one, threshold=1.5)
    for bundle, name in ((one, "one"), (shards, "shards")):
        assert export_items(bundle, tmp_path / f"{name}.parquet") == N
        assert split(bundle, tmp_path / f"{name}-halves", parts=2) == {"part-1": 30, "part-2": 30}
    assert table_of(tmp_path / "one.parquet") == table_of(tmp_path / "shards.parquet")
    for part in ("part-1", "part-2"):
        files = [tmp_path / f"{name}-halves" / part / "index.faiss" for name in ("one", "shards")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert verify(shards)["items"] == N and verify(shards)["files"] == 4 * 3 + 2  # metadata in two
    said = describe(shards)
    assert (said["shards"], said["counts"]["items"]) == (3, N) and said["bytes"] > describe(one)["bytes"]


def test_what_takes_one_index_says_so(bundles: Path, tmp_path: Path) -> None:
    line = "in-3 is in 3 shards, which this does not take: give one of them, such as .*shard-000000$"
    with pytest.raises(ValueError, match=line):
        tune(bundles / "in-3", "digits")
    with open_bundle(bundles / "in-3") as bundle, pytest.raises(ValueError, match=line):
        _ = bundle.index


def test_shards_are_merged_by_their_names_alone(bundles: Path, tmp_path: Path) -> None:
    whole, halves = bundles / "in-3", [tmp_path / "first", tmp_path / "second"]
    for half in halves:
        shutil.copytree(whole, half)
    with open_bundle(whole) as bundle, bundle.in_use() as files:
        paths = files.paths(np.arange(N))
    remove(halves[0], paths=paths[20:])  # the first shard
    remove(halves[1], paths=paths[:20])

    manifest = merge(halves, tmp_path / "merged")

    assert [entry["items"] for entry in manifest["shards"]] == [20, 20, 20] and manifest["next_id"] == N
    queries = np.zeros((3, 16), np.float32)
    queries[:, ::5] = 1
    merged, expected = found(tmp_path / "merged", queries), found(whole, queries)
    assert merged == expected and found(tmp_path / "merged", queries, "year > 2005") != merged
    second = halves[1] / "shard-000002" / "index.faiss"
    assert (tmp_path / "merged" / "shard-000002" / "index.faiss").samefile(second)
    assert verify(tmp_path / "merged")["items"] == N
    with pytest.raises(ValueError, match=r"'a/000.png' is an item of .*first/shard-000000 and of .*in-3/shard-000000"):
        merge([halves[0], whole], tmp_path / "twice")
    with pytest.raises(ValueError, match="shards keep their lists: leave --nlist and --nprobe out"):
        merge(halves, tmp_path / "lists", nlist=3)


def test_bundles_are_kept_as_shards(start: Path, tmp_path: Path) -> None:
    for name in "ab":
        export_index(start / "run-8", start / "photos" / name, tmp_path / name, ids="auto", workers=0)
    both = [tmp_path / "a", tmp_path / "b"]

    with pytest.raises(ValueError, match=r"id 0 is an item's of .*: give --new-ids"):
        merge(both, tmp_path / "refused", shards=True)
    merge(both, tmp_path / "one", new_ids=True)
    merge(both, tmp_path / "shards", new_ids=True, shards=True)

    assert len(read_manifest(tmp_path / "shards")["shards"]) == 2 and not (tmp_path / "refused").exists()
    queries = np.eye(16, dtype=np.float32)
    assert found(tmp_path / "one", queries) == found(tmp_path / "shards", queries)


def test_lists_of_other_centroids_are_no_shards(start: Path, tmp_path: Path) -> None:
    for name in "ab":
        options: dict[str, Any] = {"kind": "ivfpq", "nlist": 3, "nprobe": 2, "workers": 0}
        export_index(start / "run-8", start / "photos" / name, tmp_path / name, **options)
    with pytest.raises(ValueError, match="shard-000001 has other centroids than shard-000000"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out", new_ids=True, shards=True)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
