"""The whole evaluation job: a run or a bundle, queries and a database -> MAP@k and precision by FAISS search."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.bundle.embedding import embed_source
from mecoq_faiss.bundle.encoded import encode_source
from mecoq_faiss.bundle.encoder import encoder_in, load_encoder
from mecoq_faiss.bundle.folder import ITEMS, is_bundle, read_items
from mecoq_faiss.bundle.items import items_of_all
from mecoq_faiss.bundle.sharded import pinned_shards
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.config import K_MAP
from mecoq_faiss.data.sources import Source, as_source
from mecoq_faiss.evaluation import FIRST_RANKS, evaluate_search
from mecoq_faiss.evaluation.relevance import same_classes
from mecoq_faiss.index import build_index, without_ids
from mecoq_faiss.index.merged import MergedShards
from mecoq_faiss.index.part import IndexPart
from mecoq_faiss.training.run_folder import RunFolder


def evaluate(
    path: str | Path,
    queries: str | Path | Source,
    database: str | Path | Source | None = None,
    k: int | None = None,
    *,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """MAP@k of searching `database` with `queries`, by the labels of both (which nothing else uses).

    Args:
        path: a finished run, whose codes of `database` are made here (`IndexPQ`), or a bundle, whose own index and
            items are searched (`database` is then not needed).
        queries: a source or its name, with labels; of a built-in protocol, the queries.
        database: the same for what is searched; of a built-in protocol, the database.
        k: the cut-off, 1 to the database's size; by default 1000, or the whole of a smaller database.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        `map` (a share, 0 to 1; each query's precisions divided by its relevant items among the first k, the usual
        convention), `map_all` (divided by all of its relevant items, Eq. 18), `precision_at_1`, `precision_at_10` and
        `precision_at_100` (the relevant share of the first n; left out where n exceeds k), `k`, `queries`, `items`,
        `skipped_queries`.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.

    Example:
        >>> from mecoq_faiss import evaluate
        >>> figures = evaluate("bundle", "digits", k=100)
        >>> 0.1 < figures["map"] <= 1 and figures["queries"] == 297
        True
    """
    path = Path(path)
    source = as_source(queries, "queries")
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels: put the images into one folder a class")
    items: dict[str, Any]
    is_run = RunFolder(path).config_file.is_file() and not is_bundle(path)
    if not is_run:
        with pinned_shards(path) as (_, shards):  # all of one export, although another may take its place meanwhile
            encoder = encoder_in(shards[0], device)
            with items_of_all(shards) as stored:
                labels, class_names = stored.labels()
                items = {"codes": stored.codes, "labels": labels, "class_names": class_names}
            k = _check(items, source, k)
            indexes = [without_ids(index_in(files)) for files in shards]
            index: Any = indexes[0] if len(indexes) == 1 else MergedShards([IndexPart(index) for index in indexes])
    else:
        encoder = load_encoder(path, device)
        if database is None:
            raise ValueError("a run has no images: give --database, or export a bundle")
        with tempfile.TemporaryDirectory() as folder:
            given = as_source(database, "database")
            encode_source(encoder, given, Path(folder) / ITEMS, embeddings=None, workers=workers)
            items = read_items(Path(folder) / ITEMS)
        k = _check(items, source, k)
        index = build_index(encoder.codebooks, items["codes"], additive=encoder.is_additive)
    xq, rows = embed_source(encoder, source, workers=workers)
    labels_q, labels_db = same_classes(source.labels[rows], source.class_names, items["labels"], items["class_names"])
    found = evaluate_search(index, xq, labels_q, labels_db, k)
    return {
        "map": found["map"],
        "map_all": found["map_all"],
        **{name: float(found[name].mean()) for n in FIRST_RANKS if (name := f"precision_at_{n}") in found},
        "k": k,
        "queries": len(rows),
        "items": len(items["codes"]),
        "skipped_queries": len(source) - len(rows),
    }


def _check(items: dict[str, Any], source: Source, k: int | None) -> int:
    """The cut-off, in range, of a database that has labels."""
    n = len(items["codes"])
    if items["labels"] is None:
        raise ValueError("the database has no labels: put the images into one folder a class")
    k = min(K_MAP, n) if k is None else k
    if not 1 <= k <= n:
        raise ValueError(f"k={k} is out of range: the database has {n} items, choose 1 to {n}")
    return k
