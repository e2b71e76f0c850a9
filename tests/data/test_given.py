"""The user's table: read from each format, in the types that a bundle keeps; what cannot be joined is refused."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import duckdb
import pytest

from mecoq_faiss.data.given import Table, check_given, load_given, open_given
from mecoq_faiss.storage.table import connected
from tests.bounded import refusal

TYPES = {"n": "BIGINT", "x": "DOUBLE", "flag": "BOOLEAN", "text": "VARCHAR", "day": "DATE", "at": "TIMESTAMP"}
CSV = '''path,n,x,flag,text,day,at
001,1,0.5,true,"a, ""b""",2020-02-29,2020-02-29 01:02:03
"new
line",,,,,,
'''
JSONL = """{"path": "001", "n": 1, "x": 0.5, "flag": true, "text": "a, \\"b\\"",\
 "day": "2020-02-29", "at": "2020-02-29 01:02:03"}
{"path": "new\\nline"}
"""


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def parquet(path: Path, select: str) -> Path:
    duckdb.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


def loaded(path: Path) -> tuple[str, dict[str, str], list[tuple]]:
    with open_given(path) as file, connected([file]) as connection:
        key, columns = load_given(connection, file)
        return key, columns, connection.execute("FROM given").fetchall()


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"it's [odd] *{ending}"
    if ending == ".parquet":
        csv = written(tmp_path / "source.csv", CSV)
        parquet(tmp_path / "plain.parquet", f"FROM read_csv('{csv}', header = true, types = {{'path': 'VARCHAR'}})")
        os.rename(tmp_path / "plain.parquet", path)
    else:
        written(path, CSV if ending == ".csv" else JSONL)
    key, columns, rows = loaded(path)
    assert (key, columns) == ("path", TYPES)
    assert [str(value) for value in rows[0]] == [
        "001", "1", "0.5", "True", 'a, "b"', "2020-02-29", "2020-02-29 01:02:03",
    ]  # fmt: skip
    assert rows[1] == ("new\nline", *6 * [None])


def test_types_of_parquet_are_widened(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        "SELECT 3::UTINYINT AS id, 7::UBIGINT AS a, 1::FLOAT AS b, '2020-01-01'::TIMESTAMP_NS AS c, "
        "make_timestamptz(1000000) AS d",
    )
    key, columns, rows = loaded(path)
    assert (key, columns) == ("id", {"a": "BIGINT", "b": "DOUBLE", "c": "TIMESTAMP", "d": "TIMESTAMP"})
    assert [str(value) for value in rows[0]] == ["3", "7", "1.0", "2020-01-01 00:00:00", "1970-01-01 00:00:01"]


def test_a_column_without_a_name_gets_one(tmp_path: Path) -> None:
    assert loaded(written(tmp_path / "t.csv", "path,,year\na,1,2\n"))[2] == [("a", 1, 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,year\na,1\n", "has no column path or id, but 'file', 'year'"),
        ('"a\x0cb\x1cc",year\na,1\n', r"has no column path or id, but 'a\x0cb\x1cc', 'year'"),
        ("path,,Path\na,1,2\n", "'path' and 'Path', the same but for case"),
        ("path,id,year\na,1,1\n", "has both path and id"),
        ("path\na\n", "has no column besides path"),
        ("path,label\na,1\n", "'label' is a name that items have by themselves: rename the column"),
        ("path,Image_Path\na,1\n", "'Image_Path' is a name that items have"),
        ("path,Path\na,1\n", "'path' and 'Path', the same but for case"),
        ("path,year,Year\na,1,2\n", "'year' and 'Year', the same but for case"),
        ("path,year,year\na,1,2\n", "'year' and 'year', the same"),
        ("path,year\na,1\na,2\nb,1\nb,3\n", "2 paths have more than one row, the first is 'a'"),
        ("id,year\na,1\n", "its column id is VARCHAR: ids are whole numbers"),
        ("id,year\n1.5,1\n", "its column id is DOUBLE"),
        (f"path,{'y' * 300}\na,1\n", "is no name of a column"),
        ("", "cannot be read|has no column path or id"),
        (
            "path," + ",".join(f"c{i}" for i in range(1100)) + "\na" + 1100 * ",1" + "\n",
            "has 1100 columns: at most 1000",
        ),
    ],
)
def test_tables_that_cannot_be_joined(content: str, said: str, tmp_path: Path) -> None:
    assert refusal(lambda: check_given(Table(written(tmp_path / "t.csv", content))), *said.split("|"))


def test_lines_that_are_no_rows(tmp_path: Path) -> None:
    for content, said in (
        ('{"path": "a", "tags": [1, 2]}\n', "its column 'tags' is JSON[]"),
        ('{"path": "a", "year": 1}\n{"path": "b", "Year": 2}\n', "the same but for case"),
        ('{"path": "a", "year"\n', "cannot be read"),
        ('{"path": "a", "b": {"c\\nd": 1}}\n', "its column 'b' is"),
        ("[1, 2]\n", "cannot be read|has no column"),
    ):
        path = written(tmp_path / "t.jsonl", content)
        assert refusal(partial(check_given, Table(path)), *said.split("|"))
    nested = parquet(tmp_path / "t.parquet", "SELECT 'a' AS path, {'x': 1} AS s")
    assert refusal(lambda: check_given(Table(nested)), "its column 's' is STRUCT")
    assert refusal(lambda: check_given(Table(written(tmp_path / "u.parquet", "PAR1 nothing"))), "cannot be read")
    huge = parquet(tmp_path / "v.parquet", "SELECT 'a' AS path, 18446744073709551615::UBIGINT AS n")
    assert refusal(lambda: check_given(Table(huge)), "cannot be read")


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refusal(
        lambda: check_given(Table(written(tmp_path / "t.xlsx", "path"))), "give a .csv, .parquet or .jsonl file"
    )
    with pytest.raises(FileNotFoundError):
        check_given(Table(tmp_path / "missing.csv"))
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(OSError, match="Not a regular file"):
        check_given(Table(tmp_path / "fifo.csv"))
    (tmp_path / "latin.csv").write_bytes(b"path,text\na,\xe9\n")
    assert refusal(lambda: check_given(Table(tmp_path / "latin.csv")), "cannot be read")
