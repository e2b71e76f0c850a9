"""clip-retrieval: a bundle as the folder that its back end serves, and that autofaiss scores."""

from __future__ import annotations

import json
from pathlib import Path

from mecoq_faiss.index import save_index, without_ids
from mecoq_faiss.integrations.folders import made_of
from mecoq_faiss.jobs.export_items import export_items
from mecoq_faiss.storage.files import write_text

NAMES = r"image\.index|metadata|metadata_0\.parquet(\.partial)?|indices_paths\.json"


def to_clip_retrieval(bundle: str | Path, out: str | Path) -> Path:
    """Write `image.index`, `metadata/metadata_0.parquet` in the index's order, and `indices_paths.json`.

    The index returns rows, whatever ids the bundle has; a row of the metadata has `id`, `image_path`, `label` and the
    bundle's columns. `indices_paths.json` names the folder where it is now. The back end encodes queries with a CLIP of
    its own: give it vectors of this encoder (`embedding_input`).

    Args:
        bundle: its folder.
        out: the folder to be made; refused where it exists.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: no bundle there.
        FileExistsError: `out` is there.
        ValueError: a damaged bundle.
        ImportError: no DuckDB (extra: metadata).

    Example:
        >>> from mecoq_faiss.integrations.clip_retrieval import to_clip_retrieval
        >>> sorted(path.name for path in to_clip_retrieval("bundle", "served").iterdir())
        ['image.index', 'indices_paths.json', 'metadata']
    """
    out = Path(out)
    with made_of(bundle, out, NAMES) as (generation, folder):
        save_index(without_ids(generation.index), folder / "image.index")
        (folder / "metadata").mkdir()
        export_items(bundle, folder / "metadata" / "metadata_0.parquet")
        write_text(folder / "indices_paths.json", json.dumps({out.name: str(out.absolute())}, indent=2) + "\n")
    return out
