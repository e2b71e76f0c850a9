"""The whole job of writing a bundle's items as one table, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mecoq_faiss.bundle.columns import ROW, Classes, blocks, with_metadata
from mecoq_faiss.bundle.items import Items, items_in
from mecoq_faiss.bundle.metadata import Metadata, check_metadata, metadata_in
from mecoq_faiss.bundle.sharded import pinned_shards
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.table import check_new_parquet, connected, named, place, quoted, reason
from mecoq_faiss.storage.work_folder import WorkFolder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SPILL = "spill"


def export_items(bundle: str | Path, out: str | Path) -> int:
    """Write a Parquet file with a row for each item, in the index's order, as clip-retrieval reads them.

    Its columns are `id` (the item's own), `image_path`, `label` (the class, where each item has one) and the
    metadata's, NULL where an item has none. Memory does not grow with the items.

    Args:
        bundle: its folder.
        out: the .parquet file; refused where it exists.

    Returns:
        How many rows there are.

    Raises:
        FileNotFoundError: no bundle there.
        FileExistsError: `out` is there.
        ValueError: a damaged bundle; a name that does not end in .parquet.
        ImportError: no DuckDB (extra: metadata).

    Example:
        >>> from mecoq_faiss import export_items
        >>> export_items("bundle-photos", "items.parquet")
        20
    """
    out = Path(out)
    check_new_parquet(out)
    work = WorkFolder(out.with_name(out.name + ".partial"), {"format": 1, "items": str(bundle)}, SPILL)
    with pinned_shards(Path(bundle)) as (manifest, shards), work.opened():
        work.clear(keep=())
        try:
            with ExitStack() as stack:
                temporary = stack.enter_context(replacing(out))
                target = stack.enter_context(open(temporary, "wb"))
                all_metadata = [metadata_in(files) for files in shards]
                used: list[IO[bytes]] = [found.file for found in all_metadata if found is not None]
                connection = stack.enter_context(connected([target, *used], work.path / SPILL))
                import duckdb

                for found in all_metadata:
                    if found is not None:
                        check_metadata(connection, found)
                every_item = [stack.enter_context(items_in(files)) for files in shards]
                try:
                    _collect(connection, every_item, all_metadata)
                    connection.execute(f"COPY items TO {quoted(place(target))} (FORMAT parquet, USE_TMP_FILE false)")
                except duckdb.Error as error:
                    raise OSError(f"{out} cannot be written: {reason(error)}") from error
        finally:
            work.remove()
        return manifest["counts"]["items"]


def _collect(
    connection: DuckDBPyConnection, every_item: Sequence[Items], all_metadata: Sequence[Metadata | None]
) -> None:
    """The table `items` of those of each shard, with the metadata that any of them has."""
    classes = [Classes(items) for items in every_item]
    columns: dict[str, str] = {}
    for metadata in all_metadata:
        columns |= {} if metadata is None else metadata.columns
    first = ["id", "path AS image_path", *(["label"] if all(classes) else [])]
    made = False
    for items, own_classes, metadata in zip(every_item, classes, all_metadata, strict=True):
        own = [] if metadata is None else list(metadata.columns)
        shown = [named(name) if name in own else f"NULL::{kind} AS {named(name)}" for name, kind in columns.items()]
        for block in blocks(items, paths=True, classes=own_classes if all(classes) else None):
            rows = with_metadata(connection, block, metadata, own).order(ROW).project(", ".join([*first, *shown]))
            rows.insert_into("items") if made else rows.create("items")
            made = True
            connection.unregister("block")
