"""The table beside a .npy of features: its paths and labels, what is refused, and what the fingerprint follows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from mecoq_faiss.data.given import check_given
from mecoq_faiss.data.sources import FeatureSource, open_source
from tests.bounded import refusal

ROWS = 'path,id,label,year\n007,30,cat,2001\nb.jpg,10,dog,\n"c\nd.jpg",20,cat,2003\n'


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "emb.npy"
    np.save(path, np.arange(6, dtype=np.float16).reshape(3, 2))
    return path


def opened(npy: Path, table: str | None = None) -> FeatureSource:
    if table is not None:
        npy.with_suffix(".csv").write_text(table)
    source = open_source(npy, "train")
    assert isinstance(source, FeatureSource)
    return source


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_paths_and_labels_come_from_the_table(ending: str, npy: Path) -> None:
    csv = npy.with_name("other.csv")
    csv.write_text(ROWS)
    if ending == ".csv":
        csv.rename(npy.with_suffix(ending))
    else:
        select = f"FROM read_csv('{csv}', header = true, types = {{'path': 'VARCHAR'}})"
        duckdb.execute(f"COPY ({select}) TO '{npy.with_suffix(ending)}' (FORMAT parquet)")
    source = opened(npy)
    assert source.paths == ("007", "b.jpg", "c\nd.jpg") and source.class_names == ("cat", "dog")
    assert source.labels is not None and source.labels.tolist() == [0, 1, 0]
    assert source.table == (npy.with_suffix(ending), 3)
    assert source.subset([2, 0]).paths == ("c\nd.jpg", "007")


def test_every_column_is_optional(npy: Path) -> None:
    numbered = opened(npy, "label\n4\n0\n1\n")
    assert numbered.paths == ("0", "1", "2") and numbered.table is None
    assert numbered.labels is not None and numbered.labels.tolist() == [4, 0, 1] and len(numbered.class_names) == 5
    only_metadata = opened(npy, "year\n1\n2\n3\n")
    assert only_metadata.paths == ("0", "1", "2") and only_metadata.labels is None and only_metadata.table is not None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path\na\nb\n", "has 2 rows for 3 features"),
        ("year\n1\n2\n3\n4\n", "has 4 rows for 3 features"),
        ("path,n\na,1\nb,2\na,3\n", "the path 'a' comes 2 times"),
        ("path,n\na,1\n,2\nc,3\n", "its column path has no value in row 1"),
        ("label,n\nx,1\ny,2\n,3\n", "its column label has no value in row 2"),
        ("label\n0.5\n1\n2\n", "its column label is DOUBLE"),
        ("label\n-1\n1\n2\n", "labels must be class ids"),
        ("Label\nx\ny\nz\n", "'Label' is a name that items have by themselves"),
        ("year,Year\n1,1\n1,1\n1,1\n", "the same but for case"),
    ],
)
def test_tables_that_do_not_fit(table: str, said: str, npy: Path) -> None:
    assert "emb.csv" in refusal(lambda: opened(npy, table), said)


def test_files_that_are_no_table(npy: Path) -> None:
    npy.with_suffix(".parquet").write_text("PAR1 nothing")
    assert "emb.parquet" in refusal(lambda: opened(npy), "cannot be read")
    assert refusal(lambda: opened(npy, ROWS), "has two tables beside it")
    npy.with_suffix(".parquet").unlink()
    npy.with_suffix(".csv").unlink()
    npy.with_suffix(".csv").write_bytes(b"path,n\na,\xe9\nb,1\nc,1\n")
    assert "emb.csv" in refusal(lambda: opened(npy), "cannot be read")
    npy.with_suffix(".csv").unlink()
    os.mkfifo(npy.with_suffix(".csv"))
    assert refusal(lambda: opened(npy), "Not a regular file")


def test_without_duckdb_the_extra_is_named(npy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert opened(npy).paths == ("0", "1", "2")
    with pytest.raises(ImportError, match=r"emb\.csv beside .* needs DuckDB: pip install 'mecoq-faiss\[metadata\]'"):
        opened(npy, ROWS)


def test_the_fingerprint_follows_paths_and_labels_and_nothing_else(npy: Path) -> None:
    tables = [None, ROWS, ROWS.replace("b.jpg", "e.jpg"), ROWS.replace("dog", "cow"), ROWS.replace("dog", "cat")]
    prints = [opened(npy, table).fingerprint for table in tables]
    assert len(set(prints)) == 5
    assert opened(npy, ROWS.replace("2001", "2002")).fingerprint == prints[1]
    assert opened(npy, ROWS).subset([0, 1]).fingerprint != prints[1]


def test_a_table_that_grew_since_is_refused(npy: Path) -> None:
    table = opened(npy, ROWS).table
    assert table is not None
    check_given(table)
    npy.with_suffix(".csv").write_text(ROWS + "e,1,x,1\n")
    assert refusal(lambda: check_given(table), "has 4 rows for 3 features")
