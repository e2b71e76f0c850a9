"""What DuckDB reads under test: conditions of `--where`, and the user's tables of metadata."""

from __future__ import annotations

import atexit
import os
import random
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.fuzz.harness import Reader
from tests.fuzz.mutators import Plain
from tests.fuzz.seeds import OLD

SUFFIXES = (".csv", ".jsonl", ".parquet")
TABLE = "id,year,camera,day,f stop\n0,2019,X,2020-01-01,1.5\n1,2020,,2020-02-01,2\n3,2021,it's,,\n"
LINES = '{"path": "a", "n": 1, "x": 0.5, "flag": true, "day": "2020-02-29"}\n{"path": "b\\n", "n": null}\n'
WORDS = """
( ) , ; . : :: + - * / % || = == != < >= and or not in between like is null case when then else end cast as date
interval select from where union with group by order limit values array [ ] { } $1 ? ' " -- /* */ id path label year
camera day "f stop" true 0 1 -1 2020 1e400 9223372036854775808 'X' '%' '(a+)+$' '2020-01-01' '1 month' block
lower upper length substring regexp_matches abs round trunc nullif date_trunc date_diff to_days sum repeat range
read_csv '/etc/passwd' unnest lambda x -> varchar bigint hugeint decimal(38,38) timestamp int[] struct(a int)
"""
TOKENS = WORDS.split()


def where(folder: Path) -> Reader:
    """A condition, of the items and metadata of a bundle."""
    from mecoq_faiss import export_index
    from mecoq_faiss.bundle.folder import pinned
    from mecoq_faiss.bundle.items import items_in
    from mecoq_faiss.bundle.metadata import metadata_in
    from mecoq_faiss.bundle.where import rows_where

    (folder / "t.csv").write_text(TABLE)
    export_index(OLD / "bundle-pq", None, folder / "bundle", codes=OLD / "bundle-pq", metadata=folder / "t.csv")

    held = ExitStack()
    atexit.register(held.close)
    files = held.enter_context(pinned(folder / "bundle"))
    items, found = held.enter_context(items_in(files)), metadata_in(files)

    def read(data: bytes) -> None:
        rows_where(os.fsdecode(data), items, found)

    return read


def conditions() -> list[bytes]:
    """True of some items."""
    return [
        b"year >= 2020 and camera == 'X'", b"\"f stop\" > 1 or camera is null", b"path like '%7' and not id in (7, 17)",
        b"day between date '2020-01-01' and date '2020-01-01' + interval '2 days'", b"null::boolean",
        b"case when year % 2 = 0 then lower(camera) = 'x' else regexp_matches(path, '^.*3$') end",
    ]  # fmt: skip


def as_condition(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A token more, less, another or many times."""
    tokens = re.findall(rb"\w+|\s+|'[^']*'|\"[^\"]*\"|.", data, re.DOTALL)
    if not tokens or rng.random() < 0.2:
        return plain(data)
    i, way, other = rng.randrange(len(tokens)), rng.random(), rng.choice(TOKENS).encode()
    if way < 0.4:
        tokens[i] = other
    elif way < 0.65:
        tokens.insert(i, b" " + other + b" ")
    elif way < 0.8:
        del tokens[i]
    elif way < 0.95:
        tokens[i:i] = tokens[rng.randrange(len(tokens)) :][: rng.randrange(1, 9)]
    else:
        tokens[i:i] = [other] * rng.choice((10, 300))
    return b"".join(tokens)


def metadata(folder: Path) -> Reader:
    """The user's table, of metadata or beside features; the first byte says which, and the kind of its file."""
    from mecoq_faiss.data.given import Table, check_given, read_columns

    def read(data: bytes) -> None:
        beside, kind = divmod(data[0] if data else 0, len(SUFFIXES))
        path = folder / f"table{SUFFIXES[kind]}"
        path.write_bytes(data[1:])
        if beside % 2:
            read_columns(path, ("path", "id", "label"))
        else:
            check_given(Table(path))

    return read


def tables() -> list[bytes]:
    """One of each kind, read in both ways."""
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT 'a' AS path, 7 AS n, DATE '2020-01-01' AS day) TO '{path}'")
        contents = [TABLE.encode(), LINES.encode(), path.read_bytes()]
    return [bytes([kind + 3 * beside]) + content for beside in (0, 1) for kind, content in enumerate(contents)]
