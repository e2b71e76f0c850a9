"""The whole job of writing a bundle's items as one table, for other programs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO

from mecoq_faiss.bundle.columns import ROW, Classes, blocks, with_metadata
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.metadata import check_metadata, metadata_in
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.table import check_new_parquet, connected, place, quoted, reason
from mecoq_faiss.storage.work_folder import WorkFolder

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
    with pinned(bundle) as files, items_in(files) as items, work.opened():
        work.clear(keep=())
        try:
            with ExitStack() as stack:
                metadata = metadata_in(files)
                temporary = stack.enter_context(replacing(out))
                target = stack.enter_context(open(temporary, "wb"))
                used: list[IO[bytes]] = [] if metadata is None else [metadata.file]
                connection = stack.enter_context(connected([target, *used], work.path / SPILL))
                import duckdb

                if metadata is not None:
                    check_metadata(connection, metadata)
                classes = Classes(items)
                try:
                    for number, block in enumerate(blocks(items, paths=True, classes=classes if classes else None)):
                        table = with_metadata(connection, block, metadata, list(metadata.columns) if metadata else [])
                        rows = table.order(ROW).project(f"* EXCLUDE ({ROW}) RENAME (path AS image_path)")
                        rows.insert_into("items") if number else rows.create("items")
                        connection.unregister("block")
                    connection.execute(f"COPY items TO {quoted(place(target))} (FORMAT parquet, USE_TMP_FILE false)")
                except duckdb.Error as error:
                    raise OSError(f"{out} cannot be written: {reason(error)}") from error
        finally:
            work.remove()
        return len(items)
