"""A bundle's metadata through everything that becomes of the bundle; and those of strangers."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import (
    ModelConfig,
    TrainConfig,
    add,
    export_index,
    merge,
    open_bundle,
    remove,
    search,
    split,
    train,
    update,
    verify,
)
from mecoq_faiss.bundle.folder import METADATA, pinned, read_manifest
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.metadata import metadata_in
from mecoq_faiss.bundle.where import rows_where
from tests.bounded import refusal
from tests.bundle.hostile import WIDTH, N, altered_manifest, old_bundle

Rows = dict[str, tuple[Any, ...]]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two classes, a table of the first eight's years, a run and a bundle with it."""
    folder = tmp_path_factory.mktemp("metadata")
    for i in range(12):
        path = folder / "photos" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    table(folder / "years.csv", ((i, 2000 + i) for i in range(8)))
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=8, hidden=8, nbits=4)
    train(folder / "photos", folder / "run", model, TrainConfig(epochs=1, batch_size=6, cached_views=2, workers=0))
    export_index(folder / "run", folder / "photos", folder / "bundle", metadata=folder / "years.csv", workers=0)
    return folder


@pytest.fixture
def living(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    for name in ("photos", "bundle"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def name(i: int) -> str:
    return f"{'ab'[i % 2]}/{i:02}.png"


def table(path: Path, years: Iterable[tuple[int, object]], column: str = "year") -> Path:
    path.write_text("\n".join([f"path,{column}", *(f"{name(i)},{year}" for i, year in years)]))
    return path


def held(bundle: Path) -> Rows:
    """Path -> metadata, of the items that have some; manifest and file agree."""
    with pinned(bundle) as files, items_in(files) as items:
        for one in files.names:
            files.file(one)
        paths = dict(zip(items.ids.tolist(), items.all_paths().tolist(), strict=True))
    rows = duckdb.execute(f"FROM read_parquet('{bundle / METADATA}')").fetchall()
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    said = read_manifest(bundle)
    assert said["metadata"]["rows"] == len(rows) and said["format"] == 3
    return {paths[row[0]]: row[1:] for row in rows}


def years(rows: Iterable[int]) -> Rows:
    return {name(i): (2000 + i,) for i in rows}


def test_an_export_joins_them(made: Path) -> None:
    assert held(made / "bundle") == years(range(8))
    assert read_manifest(made / "bundle")["metadata"] == {"rows": 8, "columns": {"year": "BIGINT"}}


def test_rows_of_no_item_are_counted(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path / "more.csv", [(3, 1), (97, 2), (99, 3)])
    with caplog.at_level(logging.WARNING, "mecoq_faiss"):
        export_index(made / "bundle", None, tmp_path / "new", codes=made / "bundle", metadata=tmp_path / "more.csv")
    assert any("2 of 3 paths are no item's, the first is 'b/97.png'" in line for line in caplog.messages)
    assert held(tmp_path / "new") == years(range(8)) | {name(3): (1,)}, "the other's are passed on"
    table(tmp_path / "none.csv", [(97, 2), (99, 3)])
    said = refusal(
        lambda: export_index(made / "run", made / "photos", tmp_path / "x", metadata=tmp_path / "none.csv", workers=0),
        "none of its 2 paths is that of an item",
    )
    assert "none.csv" in said and not (tmp_path / "x").exists()


def test_an_update_carries_them(living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    picture(50).save(photos / "a" / "new.png")
    assert update(bundle, photos, workers=0)["added"] == 1
    assert held(bundle) == years(range(8))
    (photos / name(0)).unlink()
    (photos / name(1)).rename(photos / "b" / "renamed.png")
    picture(51).save(photos / name(2))  # another content: a new item, of the same path
    done = update(bundle, photos, workers=0)
    assert (done["removed"], done["renamed"], done["altered"]) == (1, 1, 1)
    assert held(bundle) == years(range(2, 8)) | {"b/renamed.png": (2001,)}
    update(bundle, photos, compact=True, workers=0)
    assert held(bundle) == years(range(2, 8)) | {"b/renamed.png": (2001,)}
    assert verify(bundle)["files"] == 5


def test_what_is_given_again_is_replaced(living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    done = update(bundle, photos, metadata=table(living / "t.csv", [(1, 7), (9, 9)]), workers=0)
    assert done["unchanged"] == 12 and done["with_metadata"] == 9
    assert held(bundle) == years(range(8)) | {name(1): (7,), name(9): (9,)}
    picture(52).save(living / "a-12.png")
    shutil.copy(living / "a-12.png", photos / name(12))
    extra = table(living / "u.csv", [(12, "X"), (1, "Y")], "camera")
    add(bundle, photos / name(12), root=photos, metadata=extra, workers=0)
    both = {path: (*year, None) for path, year in years(range(8)).items()}
    assert held(bundle) == both | {name(1): (None, "Y"), name(9): (9, None), name(12): (None, "X")}
    update(bundle, photos, metadata=table(living / "v.csv", [(3, 0.5)]), workers=0)
    assert held(bundle)[name(3)] == (0.5, None) and read_manifest(bundle)["metadata"]["columns"]["year"] == "DOUBLE"
    before = held(bundle)
    wrong = table(living / "w.csv", [(3, "x")])
    assert refusal(lambda: update(bundle, photos, metadata=wrong, workers=0), "is DOUBLE in the bundle, and VARCHAR")
    table(living / "w.csv", [(3, 1)], "Year")
    assert refusal(lambda: update(bundle, photos, metadata=wrong, workers=0), "the same but for case")
    assert held(bundle) == before and not list(living.glob("*.update"))


def test_nothing_is_left_where_none_has_any(living: Path) -> None:
    remove(living / "bundle", paths=[name(i) for i in range(8)])
    manifest = read_manifest(living / "bundle")
    assert "metadata" not in manifest and METADATA not in manifest["files"] and manifest["format"] < 3
    assert not (living / "bundle" / METADATA).exists()


def test_parts_hold_theirs_and_the_whole_all(made: Path, tmp_path: Path) -> None:
    split(made / "bundle", tmp_path / "parts", by_class=True)
    assert held(tmp_path / "parts" / "a") == years(range(0, 8, 2))
    merge([tmp_path / "parts" / "b", tmp_path / "parts" / "a"], tmp_path / "whole")
    assert held(tmp_path / "whole") == years(range(8))
    merge([tmp_path / "parts" / "b", tmp_path / "parts" / "a"], tmp_path / "renumbered", new_ids=True)
    assert held(tmp_path / "renumbered") == years(range(8))
    split(made / "bundle", tmp_path / "ranges", 3)
    assert "metadata" not in read_manifest(tmp_path / "ranges" / "part-3") or held(tmp_path / "ranges" / "part-3")
    rows = [METADATA in read_manifest(tmp_path / "ranges" / f"part-{i}")["files"] for i in (1, 2, 3)]
    assert rows == [True, True, True] or rows == [True, True, False]


def test_equal_calls_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        export_index(made / "bundle", None, tmp_path / f"{i}", codes=made / "bundle", metadata=made / "years.csv")
    assert (tmp_path / "1" / METADATA).read_bytes() == (tmp_path / "2" / METADATA).read_bytes()


def test_without_duckdb_the_extra_is_named(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    calls = [
        lambda: search(made / "bundle", made / "photos" / name(0), where="year = 2000"),
        lambda: export_index(made / "run", made / "photos", tmp_path / "x", metadata=made / "years.csv"),
    ]
    for call in calls:
        with pytest.raises(ImportError, match=r"pip install 'mecoq-faiss\[metadata\]'$"):
            call()
    assert search(made / "bundle", made / "photos" / name(0)), "a search without a condition needs none"


# of strangers


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A bundle of 60 items with a year each, by an own manifest."""
    old = old_bundle(tmp_path)
    (tmp_path / "t.csv").write_text("\n".join(["id,year,text", *(f"{i},{i},{'x' * i}" for i in range(N))]))
    export_index(old, None, tmp_path / "with", codes=old, metadata=tmp_path / "t.csv")
    return tmp_path / "with"


def put(bundle: Path, content: bytes, **said: Any) -> None:
    """Other bytes in the file's place, which the manifest says are right."""
    (bundle / METADATA).write_bytes(content)
    with altered_manifest(bundle) as manifest:
        manifest["files"][METADATA] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["metadata"] |= said


def query(bundle: Path, where: str = "year = 3") -> list[int]:
    with open_bundle(bundle) as opened:
        return sorted(hit.id for hit in opened.search(np.ones((1, WIDTH), "f4"), N, where=where)[0])


@pytest.mark.parametrize(
    "select",
    [
        "SELECT 3::BIGINT AS id, 1::BIGINT AS year, 'x' AS text FROM range(61)",  # more rows than items
        "SELECT 3::BIGINT AS id, 1::BIGINT AS year, 'x' AS text FROM range(3000000)",
        "SELECT range AS id, range::VARCHAR AS year, 'x' AS text FROM range(60)",
        "SELECT range AS id, range AS year, [range] AS text FROM range(60)",
        "SELECT range AS id, range AS year FROM range(60)",
        "SELECT range AS year, range AS id, 'x' AS text, 1 AS more FROM range(60)",
    ],
)
def test_files_that_are_not_as_the_manifest_says(select: str, hostile: Path, tmp_path: Path) -> None:
    duckdb.execute(f"COPY ({select}) TO '{tmp_path / 'other.parquet'}' (FORMAT parquet)")
    put(hostile, (tmp_path / "other.parquet").read_bytes())
    for call in (lambda: query(hostile), lambda: verify(hostile)):
        assert refusal(call, "metadata.parquet does not fit its bundle")


@pytest.mark.parametrize(
    "said",
    [
        {"rows": N + 1}, {"rows": 0}, {"rows": 2**70}, {"rows": "60"}, {"columns": {}}, {"columns": []},
        {"columns": {"year": "BIGINT[]"}}, {"columns": {"year": "BIGINT", "YEAR": "BIGINT"}},
        {"columns": {"ID": "BIGINT"}}, {"columns": {"year": 3}},
    ],
)  # fmt: skip
def test_manifests_that_say_it_wrongly(said: dict[str, Any], hostile: Path) -> None:
    with altered_manifest(hostile) as manifest:
        manifest["metadata"] |= said
    assert refusal(lambda: query(hostile), "manifest.json is damaged (metadata")


def test_described_and_not_there_or_there_and_not_described(hostile: Path) -> None:
    with altered_manifest(hostile) as manifest:
        described = manifest.pop("metadata")
    assert refusal(lambda: query(hostile), "manifest.json is damaged (metadata")
    with altered_manifest(hostile) as manifest:
        manifest["metadata"] = described
        del manifest["files"][METADATA]
    assert refusal(lambda: query(hostile), "manifest.json is damaged (metadata")


def test_ids_twice_give_no_item_twice(hostile: Path, tmp_path: Path) -> None:
    select = "SELECT (range % 7)::BIGINT AS id, 3::BIGINT AS year, 'x' AS text FROM range(60) ORDER BY range DESC"
    duckdb.execute(f"COPY ({select}) TO '{tmp_path / 'other.parquet'}' (FORMAT parquet)")
    put(hostile, (tmp_path / "other.parquet").read_bytes())
    assert query(hostile) == list(range(7))


def test_damaged_files_are_one_line(hostile: Path) -> None:
    whole = (hostile / METADATA).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(40):
        content = bytearray(whole[: rng.integers(0, len(whole))] if number % 4 == 0 else whole)
        for _ in range(int(rng.integers(1, 9))):
            if content:
                content[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
        put(hostile, bytes(content))
        try:
            with pinned(hostile) as files, items_in(files) as items:
                rows_where("year >= 3 and text like 'x%'", items, metadata_in(files))
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and str(error).startswith((f"{hostile}", "where=")), error
            refused += 1
    assert refused > 10
