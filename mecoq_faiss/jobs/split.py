"""The whole job of dividing a bundle into several."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.items import Items, items_of_all
from mecoq_faiss.bundle.metadata import Part, metadata_in
from mecoq_faiss.bundle.recast import next_id, settings, write_recast
from mecoq_faiss.bundle.segments import all_columns
from mecoq_faiss.bundle.sharded import pinned_shards
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.index import describe_index, read_codebooks
from mecoq_faiss.storage.files import check_writable_parent
from mecoq_faiss.storage.work_folder import WorkFolder


def split(
    bundle: str | Path, out_dir: str | Path, parts: int | None = None, *, by_class: bool = False
) -> dict[str, int]:
    """Divide a bundle into bundles of the same model, from its codes: no image is read.

    Items keep their ids, paths and classes. The parts have the bundle's kind and settings of the index, with no more
    lists than items, and each is proved. `merge` joins them again: of row ranges, in their order, to the same codes.

    Args:
        bundle: its folder.
        out_dir: the folder of the new bundles; refused where it exists. It appears when all are finished.
        parts: so many ranges of rows, whose sizes differ by one at most: `part-1`, `part-2`, ..., padded with zeros.
        by_class: in place of `parts`, a bundle for each class that has items, of the class's name.

    Returns:
        How many items each new bundle has, by its name.

    Raises:
        FileNotFoundError: no bundle there.
        FileExistsError: `out_dir` is there.
        ValueError: both ways given or neither; more parts than items; no classes, several an item, or a class whose
            name no folder can have.
        VerificationError: an index does not match the model; nothing is left.

    Example:
        >>> from mecoq_faiss import split
        >>> split("bundle-photos", "halves", parts=2)
        {'part-1': 10, 'part-2': 10}
    """
    out_dir = Path(out_dir)
    if (parts is None) == (not by_class):
        raise ValueError("give either a number of parts (--parts) or --by-class, one of the two")
    work = WorkFolder(out_dir.with_name(out_dir.name + ".partial"), {"format": 1, "split": str(bundle)}, r"bundles")
    if out_dir.exists():
        work.discard()  # what a kill left after the last step
        raise FileExistsError(f"{out_dir} exists: choose another --out-dir")
    check_writable_parent(out_dir)
    with pinned_shards(Path(bundle)) as (_, shards), items_of_all(shards) as items:
        rows_of = _ranges(len(items), parts) if parts is not None else _classes(items)
        encoder, index = encoder_in(shards[0], "cpu"), index_in(shards[0])
        said, codebooks = describe_index(index), read_codebooks(index)
        del index
        arrays, attributes = all_columns(items)
        free = max(next_id(files, items.ids) for files in shards)
        metadata = [found for files in shards if (found := metadata_in(files)) is not None]
        with work.opened():
            work.clear(keep=())
            try:
                for name, rows in rows_of.items():
                    folder = work.path / "bundles" / name
                    folder.mkdir(parents=True)
                    write_recast(
                        folder, shards[0], encoder, codebooks, {of: column[rows] for of, column in arrays.items()},
                        attributes, settings(said, len(rows)),
                        own_ids=said["has_ids"], first_free=free, source=f"{bundle}, {name}",
                        metadata=[Part(found, items.ids[rows], items.ids[rows]) for found in metadata],
                    )  # fmt: skip
                (work.path / "bundles").rename(out_dir)
            finally:
                work.remove()
    return {name: len(rows) for name, rows in rows_of.items()}


def _ranges(n: int, parts: int) -> dict[str, np.ndarray]:
    if not 1 <= parts <= n:
        raise ValueError(f"parts={parts} is out of range: choose 1 to {n}, the number of items")
    width = len(str(parts))
    return {f"part-{i:0{width}}": rows for i, rows in enumerate(np.array_split(np.arange(n), parts), 1)}


def _classes(items: Items) -> dict[str, np.ndarray]:
    labels, names = items.labels()
    if labels is None:
        raise ValueError("the bundle has no classes: split it by --parts")
    if labels.ndim != 1:
        raise ValueError("the bundle's items have several classes each: split it by --parts")
    found = {names[label]: np.flatnonzero(labels == label) for label in np.unique(labels)}
    for name in found:
        if name in ("", ".", "..") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
            raise ValueError(f"the class {name!r} has no name that a folder can have: split it by --parts")
    return found
