"""The items for which an expression of SQL is true, such as `year >= 2020 and camera == 'X'`.

The expression comes from outside. DuckDB parses it; what it is made of is compared with what a filter may hold (no
query, no function that makes much of little), and DuckDB evaluates it where it can reach nothing but the items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mecoq_faiss.bundle.columns import ROW, Classes, blocks, with_metadata
from mecoq_faiss.bundle.items import Items
from mecoq_faiss.bundle.metadata import Metadata, check_metadata
from mecoq_faiss.storage.table import connected, first_row, named, place, reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LONGEST = 10_000  # characters of an expression
TRIES = 3
PARTS = frozenset(  # of what DuckDB makes of an expression
    ("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "CASE", "CAST", "TYPE", "FUNCTION")
)
PLAIN = """
+ - * / // % || ~~ !~~ ~~* !~~* ^@ lower upper length trim ltrim rtrim left right substring substr contains prefix
suffix starts_with ends_with regexp_matches regexp_full_match abs round floor ceil ceiling trunc isnan isfinite
greatest least nullif if year month day hour minute second week quarter dayofweek isodow dayofyear date_part
date_trunc date_diff datediff to_years to_months to_weeks to_days to_hours to_minutes to_seconds
"""
FUNCTIONS = frozenset(PLAIN.split())  # none whose result is much longer than what it is given
NUMBERS = "tinyint smallint int integer int2 int4 int8 bigint hugeint float float4 real float8 double decimal numeric"
TYPES = frozenset(f"{NUMBERS} bool boolean varchar text string date timestamp datetime interval".split())


class _Refused(ValueError):
    pass


def rows_where(
    expression: str, items: Items, metadata: Metadata | None, columns: dict[str, str] | None = None
) -> np.ndarray:
    """The rows, rising, (m,) int64, of the items for which the expression is true.

    Args:
        expression: DuckDB's SQL, of at most 10,000 characters: comparisons, `and`, `or`, `not`, `in`, `between`,
            `like`, `is null`, `case`, casts, arithmetic and plain functions of the columns `id`, `path`, `label` (the
            class, where items have one) and those of the metadata.
        items: the bundle's.
        metadata: the bundle's, or None.
        columns: further ones that no item has here, in a shard of a bundle in which others have them, and their types.

    Raises:
        ValueError: in one line, what is wrong with the expression, and which columns there are; or damaged metadata.
    """
    classes, known = Classes(items), {} if metadata is None else metadata.columns
    absent = {name: kind for name, kind in (columns or {}).items() if name not in known}
    for attempt in range(TRIES):
        with connected([] if metadata is None else [metadata.file]) as connection:
            import duckdb

            try:
                names = _check_expression(connection, expression)
                return _evaluate(connection, expression, names, items, classes, metadata, absent)
            except (duckdb.Error, _Refused, UnicodeError) as error:
                if isinstance(error, duckdb.PermissionException) and attempt + 1 < TRIES:
                    continue  # the file was renamed just now, and has another name
                if metadata is not None and place(metadata.file) in str(error):
                    raise ValueError(f"{metadata.name} is damaged: export or copy the bundle again") from error
                raise _wrong(expression, reason(error), classes, [*known, *absent]) from error
    raise AssertionError


def _wrong(expression: str, why: str, classes: Classes, columns: Sequence[str]) -> ValueError:
    names = ["id", "path", *(["label"] if classes else []), *columns]
    listed = ", ".join(name[:40] for name in names[:30]) + (", ..." if len(names) > 30 else "")
    shown = expression if len(expression) <= 60 else expression[:60] + "..."
    return ValueError(f"where={shown!r} is no filter ({why}); the columns are {listed}")


def _check_expression(connection: DuckDBPyConnection, expression: str) -> set[str]:
    """The names in an expression, of columns among others; `_Refused` where it holds what no filter needs."""
    if len(expression) > LONGEST:
        raise _Refused(f"{len(expression):,} characters, at most {LONGEST:,} are taken: give ids in its place")
    if "\0" in expression:
        raise _Refused("a zero character")
    (text,) = first_row(connection, "SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT {expression}"]) or ("",)
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise _Refused("nested too deeply") from None
    if parsed["error"]:
        said = str(parsed.get("error_message"))
        raise _Refused("more than one statement" if said.startswith("Only SELECT") else said)
    if len(parsed["statements"]) != 1:
        raise _Refused("more than one statement")
    node = parsed["statements"][0]["node"]
    more = [
        node.get(name) for name in ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
    ]
    if node["type"] != "SELECT_NODE" or node["from_table"]["type"] != "EMPTY" or any(more) or node["cte_map"]["map"]:
        raise _Refused("a query: give a condition only")
    if len(node["select_list"]) != 1:
        raise _Refused("more than one expression")
    return _check_parts(node["select_list"][0])


def _check_parts(tree: dict[str, Any]) -> set[str]:
    names: set[str] = set()
    waiting: list[Any] = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("class", "CONSTANT") not in PARTS:
                raise _Refused(f"a {part['class'].lower()}, which no filter needs")
            if part.get("class") == "FUNCTION" and part["function_name"] not in FUNCTIONS:
                raise _Refused(f"the function {part['function_name'][:40]}, which filters do not have")
            if part.get("class") == "TYPE" and part["type_name"].casefold() not in TYPES:
                raise _Refused(f"the type {part['type_name'][:40]}, which filters do not have")
            if part.get("class") == "COLUMN_REF":
                names.update(name.casefold() for name in part["column_names"])
        waiting.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())
    return names


def _evaluate(
    connection: DuckDBPyConnection,
    expression: str,
    names: set[str],
    items: Items,
    classes: Classes,
    metadata: Metadata | None,
    absent: dict[str, str],
) -> np.ndarray:
    """The rows for which it is true, of columns that it names; a block of items at a time."""
    chosen = np.zeros(len(items), bool)
    wanted = [] if metadata is None else [name for name in metadata.columns if name.casefold() in names]
    if metadata is not None:
        check_metadata(connection, metadata)
    label = classes if "label" in names and classes else None
    for block in blocks(items, paths="path" in names, classes=label):
        table = with_metadata(connection, block, metadata, wanted)
        if nothing := [f"NULL::{absent[name]} AS {named(name)}" for name in absent if name.casefold() in names]:
            table = table.project(f"*, {', '.join(nothing)}")
        kind = str(table.project(expression).types[0])
        if kind != "BOOLEAN":
            raise _Refused(f"it is {kind[:40]}, not true or false")
        chosen[table.filter(expression).project(ROW).fetchnumpy()[ROW]] = True
        connection.unregister("block")
    return np.flatnonzero(chosen)
