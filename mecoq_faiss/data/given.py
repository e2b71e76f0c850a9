"""The user's table: a .csv, .parquet or .jsonl file, or the columns of an .h5 file of features, checked at the door."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from mecoq_faiss.data.hdf5_columns import read_more
from mecoq_faiss.storage.files import open_regular
from mecoq_faiss.storage.table import connected, first_row, named, place, quoted, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from duckdb import DuckDBPyConnection

TABLES = (".csv", ".parquet", ".jsonl")
HDF5 = (".h5", ".hdf5")
KEYS = ("path", "id")  # by what rows are joined with items
OWN = {"path": ("VARCHAR",), "id": ("BIGINT",), "label": ("BIGINT", "VARCHAR")}  # what items have of a table, its types
RESERVED = ("id", "path", "label", "image_path", "_row")  # columns that items have by themselves
MOST_COLUMNS, MOST_NAME = 1000, 255
TYPES = {  # DuckDB's -> how a bundle keeps it
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "BIGINT"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), "BIGINT"),
    "HUGEINT": "BIGINT",  # what it takes whole numbers of JSON for, where some are below 0 and some above
    **dict.fromkeys(("FLOAT", "DOUBLE"), "DOUBLE"),
    **dict.fromkeys(("BOOLEAN", "VARCHAR", "DATE"), ""),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "TIMESTAMP"),
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",  # in UTC
}
TYPES |= {name: name for name, kept in TYPES.items() if not kept}
CSV = (
    "header = true, sample_size = -1, "
    "auto_type_candidates = ['BOOLEAN', 'BIGINT', 'DOUBLE', 'DATE', 'TIMESTAMP', 'VARCHAR']"
)
JSONL = (
    "format = 'newline_delimited', records = 'true', maximum_depth = 2, sample_size = -1, map_inference_threshold = -1"
)


class Table(NamedTuple):
    """A table of metadata: joined with items by its column path or id; or a sidecar of features, which has their rows.

    A row of a sidecar is the item of its column path, or else of its own number; the columns of `OWN` are no metadata.
    """

    path: Path
    rows: int | None = None  # of a sidecar, as many as there are features


def check_given(table: Table) -> None:
    """Refuse a table that cannot be joined with items, before any work; see `load_given`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_given(table.path) as file,
        connected([file], Path(folder) / "spill") as connection,
    ):
        load_given(connection, file, table.rows)


def read_columns(path: str | Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], int, bool]:
    """Those of some columns of `OWN` that a table has, its number of rows, and whether it has metadata too.

    Whole numbers are (n,) int64, texts (n,) str objects. Raises ValueError, in one line, for a table that cannot be
    read, a value that is missing, or columns that cannot be kept.
    """
    with open_given(path) as file, connected([file]) as connection:
        import duckdb

        try:
            source, types, raw = _described(connection, file)
            _check_names(file.name, [column for column in types if column not in OWN], raw)
            kept = {c: "VARCHAR" if c == "path" else _kept(file.name, c, kind) for c, kind in types.items()}
            wanted = [name for name in names if name in types]
            for name in wanted:
                if kept[name] not in OWN[name]:
                    mend = "give whole numbers" + (" or names" if "VARCHAR" in OWN[name] else "")
                    raise ValueError(f"{file.name}: its column {name} is {types[name]}: {mend}")
            (rows,) = first_row(connection, f"SELECT count(*) FROM {source}") or (0,)
            selected = ", ".join(f"CAST({name} AS {kept[name]}) AS {name}" for name in wanted)
            columns = connection.execute(f"SELECT {selected} FROM {source}").fetchnumpy() if wanted else {}
        except duckdb.Error as error:
            raise ValueError(f"{file.name} cannot be read: {reason(error)}") from error
        for name, column in columns.items():
            if np.ma.is_masked(column):
                row = int(np.flatnonzero(np.ma.getmaskarray(column))[0])
                raise ValueError(f"{file.name}: its column {name} has no value in row {row}: give one for each row")
        return {name: np.asarray(column) for name, column in columns.items()}, rows, bool(kept.keys() - OWN.keys())


@contextmanager
def open_given(path: str | Path) -> Iterator[BufferedReader]:
    """The user's file, open; ValueError for a name that does not end as it should, OSError where it is no file."""
    if Path(path).suffix.lower() not in TABLES + HDF5:
        raise ValueError(f"metadata {path}: give a .csv, .parquet or .jsonl file, or an .h5 file of features")
    with open_regular(path) as file:
        yield file


def load_given(connection: DuckDBPyConnection, file: IO[bytes], rows: int | None = None) -> tuple[str, dict[str, str]]:
    """Read the user's table into the table `given`, every column in the type that a bundle keeps.

    `rows` is that of `Table`.

    Returns:
        The column to join by, `path` or `id`, and the others' types by name.

    Raises:
        ValueError: in one line, a file that is no such table, a column to join by that is missing or tells one item
            twice, a reserved name, names that differ only by case, a type that is none of the plain ones, or a sidecar
            of another length.
    """
    import duckdb

    name = file.name
    try:
        source, types, raw = _described(connection, file)
        key = _key(name, types) if rows is None else "path"
        own = (key,) if rows is None else OWN
        columns = {column: _kept(name, column, kind) for column, kind in types.items() if column not in own}
        if not columns:
            raise ValueError(f"{name} has no column besides {key}")
        _check_names(name, list(columns), raw)
        if key == "id" and _kept(name, key, types[key]) != "BIGINT":
            raise ValueError(f"{name}: its column id is {types[key]}: ids are whole numbers")
        casts = [_cast(column, types[column], kept) for column, kept in columns.items()]
        value = key if key in types else "row_number() OVER () - 1"
        joined = f"CAST({value} AS {'VARCHAR' if key == 'path' else 'BIGINT'}) AS {key}"
        connection.execute(f"CREATE TEMP TABLE given AS SELECT {', '.join([joined, *casts])} FROM {source}")
        (found,) = first_row(connection, "SELECT count(*) FROM given") or (0,)
        twice = first_row(
            connection,
            f"SELECT {key}, count(*) OVER () FROM given WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1 "
            f"ORDER BY {key} LIMIT 1",
        )
    except duckdb.Error as error:
        raise ValueError(f"metadata {name} cannot be read: {reason(error)}") from error
    if rows is not None:
        check_rows(name, found, rows)
    if twice is not None:
        raise ValueError(
            f"{name}: {twice[1]} {key}s have more than one row, the first is {twice[0]!r}: keep one of each"
        )
    return key, columns


def check_rows(name: str, found: int, rows: int) -> None:
    """ValueError where a sidecar has not a row for each of the features beside it."""
    if found != rows:
        raise ValueError(f"{name} has {found:,} rows for {rows:,} features: write a row for each, or rename the table")


def _described(connection: DuckDBPyConnection, file: IO[bytes]) -> tuple[str, dict[str, str], list[str]]:
    """How DuckDB reads the table, its types by column, and the names as the file has them."""
    at, suffix = quoted(place(file)), Path(file.name).suffix.lower()
    if suffix in HDF5:
        connection.register("hdf5", read_more(file))
        types = {row[0]: row[1] for row in connection.execute("DESCRIBE FROM hdf5").fetchall()}
        return "hdf5", types, list(types)
    if suffix == ".parquet":
        source = f"read_parquet({at})"
        raw = f"SELECT name FROM parquet_schema({at}) WHERE column_id > 0"
    elif suffix == ".csv":
        source = f"read_csv({at}, {CSV})"
        raw = f"SELECT unnest([*COLUMNS(*)]) FROM (FROM read_csv({at}, header = false, all_varchar = true) LIMIT 1)"
    else:
        source = f"read_json({at}, {JSONL})"
        raw = f"SELECT DISTINCT unnest(json_keys(json)) FROM read_json_objects({at}, format = 'newline_delimited')"
    types = {row[0]: row[1] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
    if "path" in types and suffix == ".csv":  # 001 is a path too
        source = f"read_csv({at}, {CSV}, types = {{'path': 'VARCHAR'}})"
    elif "path" in types and suffix == ".jsonl":
        columns = ", ".join(f"{quoted(n)}: {quoted('VARCHAR' if n == 'path' else t)}" for n, t in types.items())
        source = f"read_json({at}, format = 'newline_delimited', records = 'true', columns = {{{columns}}})"
    return source, types, [row[0] for row in connection.execute(raw).fetchall() if row[0] is not None]


def _key(name: str, types: dict[str, str]) -> str:
    keys = [key for key in KEYS if key in types]
    if len(keys) != 1:
        seen = ", ".join(repr(column[:40]) for column in list(types)[:8])
        what = "has both path and id: leave one of them out" if keys else f"has no column path or id, but {seen}"
        raise ValueError(f"{name} {what}; rows are joined with items by one of the two")
    return keys[0]


def _kept(name: str, column: str, kind: str) -> str:
    if kind not in TYPES:
        said = " ".join(kind[:40].split())
        raise ValueError(
            f"{name}: its column {column!r} is {said}: metadata are whole numbers, floats, true or false, "
            "strings, dates and timestamps"
        )
    return TYPES[kind]


def _check_names(name: str, columns: Sequence[str], raw: list[str]) -> None:
    seen: dict[str, str] = {}
    for column in raw:
        other = seen.setdefault(column.casefold(), column)
        if other is not column:
            raise ValueError(f"{name} has columns {other!r} and {column!r}, the same but for case: rename one")
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"{name} has {len(columns)} columns: at most {MOST_COLUMNS} are kept")
    for column in columns:
        if column.casefold() in RESERVED:
            raise ValueError(f"{name}: {column!r} is a name that items have by themselves: rename the column")
        if not column.isprintable() or len(column) > MOST_NAME:
            raise ValueError(
                f"{name}: {column[:40]!r} is no name of a column: give a short one of printable characters"
            )


def _cast(column: str, kind: str, kept: str) -> str:
    value = named(column)
    if kind == "TIMESTAMP WITH TIME ZONE":
        value = f"make_timestamp(epoch_us({value}))"
    return f"CAST({value} AS {kept}) AS {named(column)}"
