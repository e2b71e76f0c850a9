"""A bundle in shards follows its collection: what changes, what stays as it is, and what a stop leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, add, export_index, open_bundle, remove, train, update, verify
from mecoq_faiss.bundle.folder import read_manifest
from tests.bundle.test_living import Stopped, stopped_at
from tests.jobs.living import picture

N = 24


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run, and bundles of them in three shards."""
    folder = tmp_path_factory.mktemp("rewriting")
    (folder / "photos").mkdir()
    for i in range(N):
        picture(i).save(folder / "photos" / f"{i:02}.png")
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=16)
    train(folder / "photos", folder / "run", model, TrainConfig(epochs=1, batch_size=12, cached_views=2, workers=0))
    (folder / "years.csv").write_text("path,year\n" + "".join(f"{i:02}.png,{2000 + i}\n" for i in range(0, N, 2)))
    kinds: dict[str, dict[str, Any]] = {"pq": {}, "ivfpq": {"kind": "ivfpq", "nlist": 4, "nprobe": 4}}
    for name, options in kinds.items():
        out, table = folder / name, folder / "years.csv"
        export_index(folder / "run", folder / "photos", out, shards=3, metadata=table, workers=0, **options)
    return folder


@pytest.fixture
def living(start: Path, tmp_path: Path) -> Path:
    shutil.copytree(start / "photos", tmp_path / "photos")
    for name in ("pq", "ivfpq"):
        shutil.copytree(start / name, tmp_path / name)
    return tmp_path


def shards_of(bundle: Path) -> list[dict[str, int]]:
    """Path -> id of every item, shard by shard, which is a bundle by itself."""
    found = []
    for entry in read_manifest(bundle)["shards"]:
        with open_bundle(bundle / entry["folder"]) as shard, shard.in_use() as files:
            rows = np.arange(len(shard))
            found.append(dict(zip(files.paths(rows), files.ids(rows).tolist(), strict=True)))
    return found


def inodes(bundle: Path) -> dict[str, int]:
    return {str(path.relative_to(bundle)): path.stat().st_ino for path in bundle.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["pq", "ivfpq"])
def test_only_what_changes_is_made_anew(living: Path, kind: str) -> None:
    photos, bundle = living / "photos", living / kind
    before = inodes(bundle)
    os.rename(photos / "02.png", photos / "renamed.png")  # of the first shard
    picture(99).save(photos / "03.png")
    (photos / "01.png").unlink()
    picture(100).save(photos / "new.png")

    done = update(bundle, photos, workers=0)

    counted = {name: done[name] for name in ("added", "altered", "removed", "renamed", "items")}
    assert counted == {"added": 1, "altered": 1, "removed": 1, "renamed": 1, "items": N}
    first, second, third = shards_of(bundle)
    assert {"renamed.png", "03.png", "new.png"} <= first.keys() and first["renamed.png"] == 2
    assert sorted([first["03.png"], first["new.png"]]) == [N, N + 1]
    assert second.keys() == {f"{i:02}.png" for i in range(8, 16)} and third.keys() == {
        f"{i:02}.png" for i in range(16, N)
    }
    after = inodes(bundle)
    assert {name for name in after if after[name] == before.get(name)} >= {
        name for name in before if name.startswith(("shard-000001", "shard-000002")) and "encoder" not in name
    }
    verify(bundle)
    with open_bundle(bundle) as opened:
        [[best, *_]] = opened.search(photos / "new.png", 1)
        assert len(opened) == N and opened.manifest["history"][-1]["added"] == 1
        assert [hit.id for hit in opened.search(photos / "00.png", N, where="year >= 2022")[0]] == [22]
        assert best.score > 0


def test_added_and_removed_items(living: Path) -> None:
    bundle = living / "pq"
    remove(bundle, [8, 9, 16])
    picture(50).save(living / "a.png")

    with open_bundle(bundle) as opened:
        opened.add([living / "a.png"], root=living)
        assert len(opened) == N - 2

    first, second, third = shards_of(bundle)
    assert "a.png" in second and second["a.png"] == N and len(first) == 8 and len(third) == 7
    remove(bundle, paths=list(second))
    assert [entry["folder"] for entry in read_manifest(bundle)["shards"]] == ["shard-000000", "shard-000002"]
    add(bundle, [living / "a.png"], root=living)
    assert shards_of(bundle)[1]["a.png"] == N + 1  # no id is given twice, whatever became of its shard
    with pytest.raises(ValueError, match="nothing would be left"):
        remove(bundle, paths=[path for shard in shards_of(bundle) for path in shard])
    with pytest.raises(ValueError, match="has no item of id 77"):
        remove(bundle, [77])
    verify(bundle)


def test_a_table_is_joined_with_all_shards(living: Path) -> None:
    table = living / "places.csv"
    table.write_text("path,place\n03.png,here\n20.png,there\n")

    done = update(living / "pq", living / "photos", metadata=table, workers=0)

    assert done["with_metadata"] == N // 2 + 1 and verify(living / "pq")["items"] == N
    with open_bundle(living / "pq") as bundle:
        hits = bundle.search(living / "photos" / "00.png", N, where="place is not null or year = 2010")[0]
        assert sorted(hit.path for hit in hits) == ["03.png", "10.png", "20.png"]


@pytest.mark.parametrize("kind", ["pq", "ivfpq"])
def test_a_stop_leaves_the_old_or_the_new(living: Path, kind: str) -> None:
    photos, bundle = living / "photos", living / kind
    (photos / "01.png").unlink()
    picture(100).save(photos / "new.png")
    old, stopped = shards_of(bundle), 0

    for event in range(0, 400, 17):
        try:
            with stopped_at(event):
                update(bundle, photos, workers=0)
            break
        except Stopped:
            stopped += 1
        found = {path for shard in shards_of(bundle) for path in shard} if bundle.exists() else None
        assert found in (None, {*old[0], *old[1], *old[2]}, {path.name for path in photos.iterdir()})

    update(bundle, photos, workers=0)
    assert {path for shard in shards_of(bundle) for path in shard} == {path.name for path in photos.iterdir()}
    assert stopped > 3 and not (living / f"{kind}.update").exists() and verify(bundle)["items"] == N
