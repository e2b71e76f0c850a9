"""DuckDB, shut in: it reads and writes the files that it is given, in bounded memory, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mecoq_faiss.storage.files import check_writable_parent

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY, THREADS = "1GB", 2
MOST_DEPTH = 200  # of an expression
SETTINGS: dict[str, Any] = {
    "memory_limit": MEMORY,
    "threads": THREADS,
    "max_expression_depth": MOST_DEPTH,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # a name is never a variable of the caller's
}


def check_new_parquet(out: Path) -> None:
    """ValueError, FileExistsError or another OSError unless `out` can become a new .parquet file."""
    if out.suffix.lower() != ".parquet":
        raise ValueError(f"--out {out}: choose a name that ends in .parquet")
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another file")
    check_writable_parent(out)


@contextmanager
def connected(files: Iterable[IO[bytes]] = (), spill: Path | None = None) -> Iterator[DuckDBPyConnection]:
    """A database in memory that can touch some open files, by their `place`, and no other; no setting can be changed.

    Args:
        files: what it may read, or write where it is open for writing.
        spill: a folder to be made for what memory does not hold; it is removed again. Without it, too much is an error.

    Raises ImportError, naming the extra, where there is no DuckDB.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ImportError("metadata and filters need DuckDB: pip install 'mecoq-faiss[metadata]'") from error
    settings = SETTINGS if spill is None else SETTINGS | {"temp_directory": str(spill)}
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            allowed = ", ".join(quoted(place(file)) for file in files)
            connection.execute(f"SET allowed_paths = [{allowed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection
    finally:
        if spill is not None:
            shutil.rmtree(spill, ignore_errors=True)


def first_row(connection: DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a query's result, of which none is left unread: DuckDB would take no other query meanwhile."""
    rows = connection.execute(query, list(values)).fetchall()
    return rows[0] if rows else None


def place(file: IO[bytes]) -> str:
    """What DuckDB opens an open file by, whatever is by now in its place; it takes no odd name for a pattern."""
    by_number = f"/dev/fd/{file.fileno()}"
    return by_number if Path("/dev/fd").is_dir() else str(file.name)


def quoted(text: str) -> str:
    """Text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def named(column: str) -> str:
    """A column's name as an identifier of SQL."""
    return '"' + column.replace('"', '""') + '"'


def reason(error: Exception) -> str:
    """What DuckDB said, in one line of at most 200 characters."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= 200 else line[:200] + "..."
