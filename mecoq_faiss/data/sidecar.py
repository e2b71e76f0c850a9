"""The sidecar of a ``.npy`` of features: ``emb.parquet`` or ``emb.csv`` beside ``emb.npy``, with as many rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from mecoq_faiss.data.features import FeatureSource, classes_of
from mecoq_faiss.data.given import Table, check_rows, read_columns

SIDECAR_TYPES = (".parquet", ".csv")


def with_sidecar(source: FeatureSource, path: Path) -> FeatureSource:
    """The features of a ``.npy`` with the paths, labels and metadata of the table beside it, if there is one.

    Its columns ``path`` and ``label`` (class ids or names) are optional, ``id`` is for an export's own ids, all others
    are metadata.

    Raises:
        ValueError: in one line, two tables, one that cannot be read or has another length, a value of ``path`` or
            ``label`` that is missing, or a path that comes twice.
        ImportError: there is a table, and no DuckDB.
    """
    there = [table for ending in SIDECAR_TYPES if (table := path.with_suffix(ending)).exists()]
    if not there:
        return source
    if len(there) > 1:
        raise ValueError(f"{source.name} has two tables beside it, {there[0]} and {there[1]}: leave one of them")
    [table] = there
    try:
        columns, rows, has_metadata = read_columns(table, ("path", "label"))
    except ImportError as error:
        raise ImportError(
            f"{table} beside {source.name} needs DuckDB: pip install 'mecoq-faiss[metadata]', or rename the table"
        ) from error
    check_rows(str(table), rows, len(source))
    if "path" in columns:
        source = replace(source, paths=_different(columns["path"].tolist(), table))
    if "label" in columns:
        labels, class_names = classes_of(str(table), columns["label"])
        source = replace(source, labels=labels, class_names=class_names)
    return replace(source, named_by=table, table=Table(table, rows) if has_metadata else None)


def _different(paths: list[str], table: Path) -> tuple[str, ...]:
    if len(set(paths)) < len(paths):
        path, count = Counter(paths).most_common(1)[0]
        raise ValueError(f"{table}: the path {path!r} comes {count} times: give each row one of its own")
    odd = next((row for row, path in enumerate(paths) if "\0" in path), None)
    if odd is not None:
        raise ValueError(f"{table}: the path of row {odd} has a zero byte: leave it out")
    return tuple(paths)
