"""The user's columns of a bundle's items: metadata.parquet, a row for each item that has some, by the item's own id."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mecoq_faiss.bundle.folder import METADATA, Pinned
from mecoq_faiss.bundle.items import BLOCK, Items
from mecoq_faiss.data.given import Table, load_given, open_given
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.table import connected, first_row, named, place, quoted, reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger("mecoq_faiss")
SPILL = "spill"  # in the folder that is written, while it is
WIDER = {frozenset(("BIGINT", "DOUBLE")): "DOUBLE", frozenset(("DATE", "TIMESTAMP")): "TIMESTAMP"}


class Metadata(NamedTuple):
    """An opened bundle's metadata, and what its manifest says of them."""

    name: str  # of the file, for messages
    file: BufferedReader
    rows: int
    columns: dict[str, str]  # name -> DuckDB's type


class Part(NamedTuple):
    """Metadata that go into another bundle: those of some items, and the ids that these have there, (m,) int64 each."""

    metadata: Metadata
    old_ids: np.ndarray
    new_ids: np.ndarray


def metadata_in(files: Pinned) -> Metadata | None:
    """The metadata of an opened bundle, None where it has none; ValueError where they differ from the manifest."""
    if METADATA not in files.names:
        return None
    said = files.manifest["metadata"]
    return Metadata(str(files.bundle / METADATA), files.file(METADATA), said["rows"], said["columns"])


def metadata_of(metadata: Metadata, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The metadata of some items, by id; items that have none are left out. ValueError for a damaged file."""
    import duckdb

    with connected([metadata.file]) as connection:
        try:
            rows = connection.execute(
                f"FROM read_parquet({quoted(place(metadata.file))}) WHERE id IN (SELECT unnest(?::BIGINT[]))",
                [list(ids)],
            )
            names = [column[0] for column in rows.description or ()]
            found = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
        except duckdb.Error as error:
            raise ValueError(f"{metadata.name} is damaged ({reason(error)}): export the bundle again") from error
    return {row.pop("id"): row for row in found}


def check_metadata(connection: DuckDBPyConnection, metadata: Metadata) -> None:
    """ValueError unless rows and columns are those that the manifest says."""
    import duckdb

    try:
        _check(connection, metadata)
    except duckdb.Error as error:
        raise ValueError(f"{metadata.name} is damaged ({reason(error)}): export the bundle again") from error


def _check(connection: DuckDBPyConnection, metadata: Metadata) -> None:
    at = quoted(place(metadata.file))
    (groups,) = first_row(
        connection, f"SELECT coalesce(sum(row_group_num_rows), 0) FROM parquet_metadata({at}) WHERE column_id = 0"
    ) or (0,)
    (rows,) = first_row(connection, f"SELECT num_rows FROM parquet_file_metadata({at})") or (0,)
    found = {row[0]: row[1] for row in connection.execute(f"DESCRIBE FROM read_parquet({at})").fetchall()}
    if found != {"id": "BIGINT", **metadata.columns} or not groups == rows == metadata.rows:
        raise ValueError(f"{metadata.name} does not fit its bundle: export or copy the bundle again")


def write_metadata(
    folder: Path, parts: Sequence[Part], given: Table | None = None, items: Items | None = None
) -> dict[str, Any] | None:
    """Write metadata.parquet into a new bundle: what others had, and over it the user's table.

    Args:
        folder: the new bundle's, which is not in use yet.
        parts: metadata of other bundles.
        given: the user's table, or None; an item that it names gets its row in place of what it had.
        items: the new bundle's; needed for `given`.

    Returns:
        `rows` and `columns`, for the manifest, and `sidecar`, the SHA-256 of one that is given; None where no item has
        metadata, and no file is written.

    Raises:
        ValueError: in one line, what is wrong with the table, or a part that is damaged.
    """
    parts = [part for part in parts if len(part.old_ids)]
    if not parts and given is None:
        return None
    with ExitStack() as stack:
        inputs: list[IO[bytes]] = [part.metadata.file for part in parts]
        file = None if given is None else stack.enter_context(open_given(given.path))
        temporary = stack.enter_context(replacing(folder / METADATA))
        out = stack.enter_context(open(temporary, "wb"))
        used = [*inputs, out] if file is None else [*inputs, file, out]
        connection = stack.enter_context(connected(used, folder / SPILL))
        selects: list[tuple[str, str, dict[str, str]]] = []  # the id, where from, the columns
        if file is not None and given is not None and items is not None:
            selects.append(_join_given(connection, file, given.rows, items))
        for number, part in enumerate(parts):
            selects.append(_of_part(connection, part, number, given is not None))
        columns = _united([columns for *_, columns in selects])
        rows = _copy(connection, selects, columns, out)
        described = {"rows": rows, "columns": columns}
        if file is not None and given is not None and given.rows is not None:
            file.seek(0)
            described["sidecar"] = hashlib.file_digest(file, "sha256").hexdigest()
    if not rows:
        (folder / METADATA).unlink()
        return None
    return described


def carried(files: Pinned, items: Items, gone: np.ndarray, after: Items) -> list[Part]:
    """The metadata of a bundle that stay in its next generation.

    Where an image has another content now, and so is a new item, what its path had goes to that.

    Args:
        files: the bundle, opened.
        items: its items.
        gone: (g,) rows of those that are removed.
        after: the next generation's items.
    """
    metadata = metadata_in(files)
    if metadata is None:
        return []
    lost = np.asarray(items.ids)[gone]
    stays = np.setdiff1d(items.ids, lost)
    old_of = dict(zip(items.paths(gone), lost.tolist(), strict=True))
    rows, _ = after.rows_at(list(old_of))
    altered = np.array([old_of[path] for path in after.paths(rows)], np.int64)
    return [Part(metadata, np.concatenate([stays, altered]), np.concatenate([stays, after.ids[rows]]))]


def _join_given(
    connection: DuckDBPyConnection, file: IO[bytes], rows: int | None, items: Items
) -> tuple[str, str, dict[str, str]]:
    """The user's rows by the ids of the items that they name."""
    key, columns = load_given(connection, file, rows)
    connection.execute("CREATE TEMP TABLE matched (id BIGINT, place BIGINT)")
    for ids, paths in _keys(items, key):
        block = {"id": ids} if paths is None else {"id": ids, "path": np.array(paths, dtype=object)}
        connection.register("block", block)
        connection.execute(
            f"INSERT INTO matched SELECT block.id, given.rowid FROM block JOIN given ON block.{key} = given.{key}"
        )
        connection.unregister("block")
    unknown, first, known = first_row(
        connection,
        f"SELECT count(*) FILTER (m.place IS NULL), min({key}) FILTER (m.place IS NULL), count(m.place) "
        "FROM given LEFT JOIN (SELECT DISTINCT place FROM matched) m ON m.place = given.rowid",
    ) or (0, None, 0)
    if not known:
        raise ValueError(f"{file.name}: none of its {unknown} {key}s is that of an item, the first is {first!r}")
    if unknown:
        logger.warning(
            "%s: %d of %d %ss are no item's, the first is %r", file.name, unknown, unknown + known, key, first
        )
    return "m.id", "matched m JOIN given t ON t.rowid = m.place", columns


def _keys(items: Items, key: str) -> Any:
    """Ids of all items, some at a time, with their paths where these are the key."""
    if key == "path":
        yield from ((items.ids[rows], paths) for rows, paths in items.each_path())
    else:
        yield from ((items.ids[start : start + BLOCK], None) for start in range(0, len(items), BLOCK))


def _of_part(connection: DuckDBPyConnection, part: Part, number: int, given: bool) -> tuple[str, str, dict[str, str]]:
    """The rows of a part under their new ids, without those that the user gave anew."""
    check_metadata(connection, part.metadata)
    connection.register(f"ids_{number}", {"old_id": part.old_ids, "id": part.new_ids})
    rows = f"ids_{number} i JOIN read_parquet({quoted(place(part.metadata.file))}) t ON t.id = i.old_id"
    return "i.id", rows + (" ANTI JOIN matched m ON m.id = i.id" if given else ""), part.metadata.columns


def _united(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """The columns of several tables, each once; ValueError where they do not go together."""
    columns: dict[str, str] = {}
    for table in reversed(tables):  # those that were there first
        spelled = {name.casefold(): name for name in columns}
        for name, kind in table.items():
            before = spelled.get(name.casefold(), name)
            if before != name:
                raise ValueError(f"the bundle has a column {before!r}: {name!r} is the same but for case, rename it")
            both = frozenset((kind, columns.get(name, kind)))
            if len(both) > 1 and both not in WIDER:
                raise ValueError(f"the column {name!r} is {columns[name]} in the bundle, and {kind} in what is added")
            columns[name] = kind if len(both) == 1 else WIDER[both]
    return columns


def _copy(
    connection: DuckDBPyConnection,
    selects: Sequence[tuple[str, str, dict[str, str]]],
    columns: dict[str, str],
    out: IO[bytes],
) -> int:
    """Write the united rows, by rising id; how many they are."""
    import duckdb

    parts = []
    for own_id, rows, own in selects:
        values = (f"t.{named(name)}" if name in own else "NULL" for name in columns)
        cast = (f"CAST({v} AS {kind}) AS {named(n)}" for v, (n, kind) in zip(values, columns.items(), strict=True))
        parts.append(f"SELECT {own_id} AS id, {', '.join(cast)} FROM {rows}")
    try:
        united = f"{' UNION ALL '.join(parts)} ORDER BY id"
        (rows_written,) = first_row(
            connection, f"COPY ({united}) TO {quoted(place(out))} (FORMAT parquet, USE_TMP_FILE false)"
        ) or (0,)
    except duckdb.Error as error:
        raise OSError(f"{METADATA} cannot be written: {reason(error)}") from error
    return int(rows_written)
