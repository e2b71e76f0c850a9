"""Search a bundle once with images or features: what `mecoq-faiss search` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.generation import Hit
from mecoq_faiss.bundle.opened import open_bundle
from mecoq_faiss.data.features import FEATURE_TYPES, open_features
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.table import check_new_parquet, connected, place, quoted

if TYPE_CHECKING:
    import torch


def query_names(queries: Sequence[str | Path]) -> list[str]:
    """What to call each query: an image by its path, a row of a file of features FILE:ROW, rows from 0."""
    names = []
    for path in map(Path, queries):
        rows = len(open_features(path, str(path))) if path.suffix.lower() in FEATURE_TYPES else None
        names += [str(path)] if rows is None else [f"{path}:{row}" for row in range(rows)]
    return names


def write_hits(out: str | Path, names: Sequence[str], results: Sequence[Sequence[Hit]]) -> int:
    """Write the hits of queries as a Parquet file, a row each; how many there are.

    Its columns are `query` (its name), `rank`, `score`, `row`, `path` and `id`. ValueError for another ending than
    .parquet, FileExistsError where `out` is there, ImportError without DuckDB (extra: metadata).
    """
    out = Path(out)
    check_new_parquet(out)
    found = [(name, hit) for name, hits in zip(names, results, strict=True) for hit in hits]
    table = {"query": np.array([name for name, _ in found], object)}
    for field, kind in (
        ("rank", np.int32),
        ("score", np.float32),
        ("row", np.int64),
        ("path", object),
        ("id", np.int64),
    ):
        table[field] = np.array([getattr(hit, field) for _, hit in found], kind)
    with replacing(out) as temporary, open(temporary, "wb") as target, connected([target]) as connection:
        connection.register("hits", table)
        connection.execute(f"COPY hits TO {quoted(place(target))} (FORMAT parquet, USE_TMP_FILE false)")
    return len(found)


def search(
    bundle: str | Path,
    images: str | Path | Sequence[str | Path],
    k: int | None = None,
    *,
    where: ArrayLike | str | None = None,
    device: str | torch.device = "auto",
    runtime: str = "torch",
) -> list[list[Hit]]:
    """The k best items of a bundle for each query. To search more than once, `open_bundle` opens it once.

    Args:
        bundle: its folder.
        images: image files; for a model of features .npy or .h5 files, every row of which is a query.
        k: results a query; by default 10, or all of a smaller bundle.
        where: which items may be found, a condition or ids: see `Bundle.search`.
        device: where the encoder runs.
        runtime: what runs it, `torch` or `onnx`; see `load_encoder`.

    Returns:
        For each image, or each row of the files in turn, its hits, best first.

    Raises FileNotFoundError, UnreadableImage or ValueError, in one line, for a damaged bundle or query, k out of
    range (1 to the number of items) or a condition that is none.

    Example:
        >>> from mecoq_faiss import search
        >>> [hits] = search("bundle", ["query.png"], k=5)
        >>> hits[0].path == search("bundle", ["query.png"], k=1)[0][0].path
        True
    """
    with open_bundle(bundle, device, runtime) as opened:
        return opened.search(images, k, where=where)
