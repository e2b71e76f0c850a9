"""The table of a bundle's items: a row each in the index's order, with what they have; written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pytest

from mecoq_faiss import export_index, export_items, remove
from mecoq_faiss.bundle import items as items_module
from mecoq_faiss.bundle.folder import ITEMS, pinned
from mecoq_faiss.bundle.items import items_in
from tests.bundle.hostile import N, old_bundle, sign
from tests.cli.calls import fails, ok


def rows(path: Path) -> tuple[list[str], list[tuple]]:
    table = duckdb.execute(f"FROM read_parquet('{path}')")
    return [column[0] for column in table.description or ()], table.fetchall()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """60 items with odd names under own ids, most with a year."""
    old = old_bundle(tmp_path)
    with h5py.File(old / ITEMS, "r+") as file:
        file["paths"][:] = [f"{i}-\n'\"é\\udcff.jpg" for i in range(N)]
    sign(old)
    (tmp_path / "t.csv").write_text("\n".join(["id,year", *(f"{1000 - i},{i}" for i in range(10, N))]))
    ids = 1000 - np.arange(N)
    export_index(old, None, tmp_path / "with", codes=old, ids=ids, metadata=tmp_path / "t.csv")
    return tmp_path / "with"


def test_a_row_an_item_in_the_order_of_the_index(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "BLOCK", 7)
    remove(bundle, [1000, 985])
    left = [i for i in range(N) if i not in (0, 15)]
    assert export_items(bundle, tmp_path / "it's.parquet") == N - 2
    shutil.move(tmp_path / "it's.parquet", tmp_path / "items.parquet")
    columns, found = rows(tmp_path / "items.parquet")
    assert columns == ["id", "image_path", "label", "year"]
    with pinned(bundle) as files, items_in(files) as items:
        paths = items.all_paths().tolist()
    wanted = [(1000 - i, path, "ab"[i % 2], i if i >= 10 else None) for i, path in zip(left, paths, strict=True)]
    assert found == wanted
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))


def test_without_metadata_or_classes(tmp_path: Path) -> None:
    old = old_bundle(tmp_path)
    with h5py.File(old / ITEMS, "r+") as file:
        del file["labels"]
    sign(old)
    ok("export-items", old, "--out", tmp_path / "items.parquet")
    columns, found = rows(tmp_path / "items.parquet")
    assert columns == ["id", "image_path"] and [row[0] for row in found] == list(range(N))


def test_what_is_refused_and_nothing_is_left(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there.parquet").write_text("mine")
    assert "exists: choose another file" in fails("export-items", bundle, "--out", tmp_path / "there.parquet")
    assert (tmp_path / "there.parquet").read_text() == "mine"
    assert "ends in .parquet" in fails("export-items", bundle, "--out", tmp_path / "x.csv")
    (bundle / "metadata.parquet").write_bytes(b"PAR1")
    before = sorted(tmp_path.iterdir())
    assert "differs from the manifest" in fails("export-items", bundle, "--out", tmp_path / "x.parquet")
    assert sorted(tmp_path.iterdir()) == before
