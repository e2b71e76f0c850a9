"""Items' columns as tables: in blocks of any size what the items say, beside their metadata."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss import export_index
from mecoq_faiss.bundle import columns as module
from mecoq_faiss.bundle.columns import ROW, Classes, blocks, with_metadata
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import Items, items_in
from mecoq_faiss.bundle.metadata import Metadata, metadata_in
from mecoq_faiss.storage.table import connected
from tests.bundle.hostile import N, old_bundle

Opened = tuple[Items, Metadata]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items of classes a and b, of which all but the first ten have a day and an odd column."""
    folder = tmp_path_factory.mktemp("columns")
    old = old_bundle(folder)
    lines = [f"{i},{datetime.date(2020, 1, 1) + datetime.timedelta(i)},{i / 2}" for i in range(10, N)]
    (folder / "t.csv").write_text("\n".join(["id,day,f stop", *lines]))
    export_index(old, None, folder / "with", codes=old, metadata=folder / "t.csv")
    return folder / "with"


@pytest.fixture
def opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setattr(module, "ROWS", 7)
    with pinned(bundle) as files, items_in(files) as items:
        metadata = metadata_in(files)
        assert metadata is not None
        yield items, metadata


@pytest.mark.parametrize("paths", [False, True])
def test_blocks_are_all_items_in_their_order(paths: bool, opened: Opened) -> None:
    items, _ = opened
    classes = Classes(items)
    found = list(blocks(items, paths=paths, classes=classes))
    assert paths or [len(block["id"]) for block in found] == [7] * (N // 7) + [N % 7]
    for name, expected in ((ROW, np.arange(N)), ("id", items.ids), ("path", items.all_paths())):
        if name != "path" or paths:
            np.testing.assert_array_equal(np.concatenate([block[name] for block in found]), expected)
    labels, names = items.labels()
    assert labels is not None and classes
    assert np.concatenate([block["label"] for block in found]).tolist() == [names[label] for label in labels]
    assert all(("path" in block) == paths for block in found)


class Labelled:
    """Items of the labels that a test gives."""

    def __init__(self, labels: np.ndarray | None, names: list[str]) -> None:
        self._given = labels, names

    def labels(self) -> tuple[np.ndarray | None, list[str]]:
        return self._given


def test_a_number_that_no_class_has_gives_none() -> None:
    classes = Classes(Labelled(np.array([1, 0, 2, -1]), ["a", "b"]))  # type: ignore[arg-type]
    assert classes and classes.of(np.array([3, 0, 2, 1])).tolist() == [None, "b", None, "a"]


@pytest.mark.parametrize(
    ("labels", "names"), [(None, ["a"]), (np.zeros((4, 2), np.uint8), ["a", "b"]), (np.zeros(4, np.int64), [])]
)
def test_items_without_one_class_each_have_none(labels: np.ndarray | None, names: list[str]) -> None:
    assert not Classes(Labelled(labels, names))  # type: ignore[arg-type]


def test_metadata_stand_beside_their_items(opened: Opened) -> None:
    items, metadata = opened
    with connected([metadata.file]) as connection:
        rows = []
        for block in blocks(items, paths=False, classes=None):
            rows += with_metadata(connection, block, metadata, ["f stop", "day"]).fetchall()
    assert sorted(rows, key=lambda row: row[0]) == [
        (i, i, i / 2, datetime.date(2020, 1, 1) + datetime.timedelta(i)) if i >= 10 else (i, i, None, None)
        for i in range(N)
    ]


@pytest.mark.parametrize("given", [True, False])
def test_without_wanted_columns_a_block_is_alone(given: bool, opened: Opened) -> None:
    items, metadata = opened
    block = next(iter(blocks(items, paths=False, classes=None)))
    with connected([metadata.file]) as connection:
        table = with_metadata(connection, block, metadata if given else None, [] if given else ["day"])
        assert table.columns == [ROW, "id"] and table.fetchall() == [(i, i) for i in range(7)]
