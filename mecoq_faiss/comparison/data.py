"""The data of a comparison: backbone features of queries, database and training images, and what is held out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.backbone.feature_cache import fingerprint
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.baselines import EXACT
from mecoq_faiss.bundle.embedding import check_fits
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.comparison.copies import FEWEST_COPIES, choose_rows, copy_features
from mecoq_faiss.comparison.figures import NEIGHBORS, Task
from mecoq_faiss.config import K_MAP, TrainConfig
from mecoq_faiss.data.sources import ImageSource, Source, as_source, open_source
from mecoq_faiss.evaluation.relevance import same_classes
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.storage.files import read_small
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.start import MOST_SPLIT

Array = NDArray[Any]
Labels = tuple[Array | None, Array | None]  # of queries and database

SEED = 0
HELD_OUT = 11_000  # images: a thousand of them play the queries
TRAIN_ROWS = 65_536  # FAISS's k-means takes no more: 256 rows a centroid
CHOICE_ROWS = 20_000  # of them, for the choice among settings


@dataclass(frozen=True)
class CompareData:
    """Features and labels of what is compared, by the backbone of this fingerprint; see `of_model`.

    Rows of `xb`, `held` and `task` are those of `database` (readable images only), xq's those of `queries`, xt's those
    of `training`.
    """

    queries: Source
    database: Source
    xb: Array  # (n, F)
    xt: Array  # (nt, F) for the final fits
    xt_choice: Array  # (<= CHOICE_ROWS, F) of them, without held-out items
    held: NDArray[np.int64]
    task: Task
    train_source: Source | None
    train_note: str
    description: dict[str, Any]
    training: Source
    backbone: str


def load_data(
    run: Path,
    model: MeCoQ,
    config: TrainConfig | None,
    queries: str | Path | Source,
    database: str | Path | Source,
    k: int | None,
    *,
    items: int,
    workers: int,
    device: str,
) -> CompareData:
    """Open the sources, compute (or find in the cache) their features, and divide them; see `jobs.compare`."""
    opened = []
    for source, split in ((queries, "queries"), (database, "database")):
        opened.append(as_source(source, split))
        check_fits(TorchEncoder(model, device), opened[-1])
    q, db = opened
    if len(db) > items:
        db = db.subset(np.sort(np.random.default_rng(SEED).choice(len(db), items, replace=False)))

    def features(source: Source) -> tuple[Array, Array]:
        return fixed_features(source, model.backbone, size=model.config.image_size, workers=workers, device=device)

    (xq, rows_q), (xb, rows_db) = features(q), features(db)
    q, db = q.subset(rows_q), db.subset(rows_db)
    n = len(db)
    k = min(K_MAP, n) if k is None else k
    if n < FEWEST_COPIES or not 1 <= k <= n:
        raise ValueError(
            f"k={k} on a database of {n} readable images: give at least {FEWEST_COPIES} images and k <= {n}"
        )

    train_source, note = recorded_training(run)
    rng = np.random.default_rng(SEED)
    in_database = None if train_source is None else _rows_in(train_source, db)
    seen = np.zeros(n, dtype=bool)
    if in_database is not None:
        seen[in_database] = True
    elif train_source is not None:
        x, readable = features(train_source)
        seen = _same_rows(xb, x)
    held = held_out(seen, rng)
    if train_source is not None and in_database is None:
        rows = np.sort(rng.choice(len(x), min(TRAIN_ROWS, len(x)), replace=False))
        xt, in_choice = np.asarray(x[rows]), np.arange(len(rows))
        training = train_source.subset(readable[rows])
    else:
        rows = np.setdiff1d(np.arange(n), held) if in_database is None else in_database
        rows = np.sort(rng.choice(rows, min(TRAIN_ROWS, len(rows)), replace=False))
        xt, in_choice = np.asarray(xb[rows]), np.flatnonzero(~np.isin(rows, held))
        training = db.subset(rows)
    xt_choice = xt[np.sort(rng.choice(in_choice, min(CHOICE_ROWS, len(in_choice)), replace=False))]

    labels: Labels = (None, None)
    view_rows = view_note = None
    if q.labels is not None and db.labels is not None:
        labels = same_classes(q.labels, q.class_names, db.labels, db.class_names)
    elif isinstance(db, ImageSource):
        view_rows, view_note = choose_rows(n, None if train_source is None else seen, rng)
    task = _task(model, config, db, labels, xq, xb, xt, view_rows, k, workers)
    description = {
        "queries": q.name, "database": db.name, "num_queries": len(q), "num_items": n, "feature_width": xb.shape[1],
        "training_rows": len(xt), "training_rows_for_the_choice": len(xt_choice), "training_data": note,
        "labels": task.labels_q is not None, **({"views": view_note} if view_note else {}),
    }  # fmt: skip
    return CompareData(
        q, db, xb, xt, xt_choice, held, task, train_source, note, description, training, fingerprint(model.backbone)
    )


def held_out(seen: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the database on which settings are chosen, sorted; not trained on, where these are a fourth of all.

    Args:
        seen: (n,) which were trained on.
        rng: draws them.
    """
    pool = np.flatnonzero(~seen)
    if len(pool) < len(seen) // 4:  # trained on (nearly) the whole database
        pool = np.arange(len(seen))
    return np.sort(rng.choice(pool, min(HELD_OUT, len(pool) // 3), replace=False))


def of_model(
    data: CompareData, model: MeCoQ, config: TrainConfig | None, *, workers: int, device: str
) -> tuple[Array, Task]:
    """The database's features (n, F) and the task by the model's own backbone, which may be another than `data`'s.

    The task's queries, views and neighbours are by these features too.
    """
    if fingerprint(model.backbone) == data.backbone:
        return data.xb, data.task

    def features(source: Source) -> Array:
        size = model.config.image_size
        return fixed_features(source, model.backbone, size=size, workers=workers, device=device)[0]

    xq, xb, xt = (features(source) for source in (data.queries, data.database, data.training))
    labels, rows = (data.task.labels_q, data.task.labels_db), data.task.view_rows
    return xb, _task(model, config, data.database, labels, xq, xb, xt, rows, data.task.k, workers)


def _task(
    model: MeCoQ,
    config: TrainConfig | None,
    database: Source,
    labels: Labels,
    xq: Array,
    xb: Array,
    xt: Array,
    view_rows: NDArray[np.int64] | None,
    k: int,
    workers: int,
) -> Task:
    """Exact neighbours of the queries, and where there are `view_rows` a view of each."""
    exact = EXACT[model.config.metric].fit(xt)
    _, neighbors = exact.search(exact.index(xb), xq, NEIGHBORS)
    views = None
    if view_rows is not None:
        assert isinstance(database, ImageSource)
        views = copy_features(database.subset(view_rows), model.to("cpu"), config or TrainConfig(), workers)
    return Task(np.asarray(xq), *labels, neighbors, views, view_rows, k)


def recorded_training(run: Path) -> tuple[Source | None, str]:
    """The source that a run was trained on, if it can be opened and is unchanged; else None, and a note why."""
    instead = "baselines are trained on a sample of the database"
    try:
        recorded = json.loads(read_small(RunFolder(run).split_file, MOST_SPLIT))
        source = open_source(recorded["source"], "train")
        unchanged = source.fingerprint == recorded["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"not found ({str(error).splitlines()[0]}); {instead}"
    if not unchanged:
        return None, f"{recorded['source']} has changed since; {instead}"
    return source, f"{source.name}, the run's {len(source)} training items"


def _rows_in(train: Source, database: Source) -> NDArray[np.int64] | None:
    """Rows of the database that were trained on; None where the two are different collections."""
    if _collection(train) != _collection(database):
        return None
    place = {path: row for row, path in enumerate(database.paths)}
    found = [place[path] for path in train.paths if path in place]
    return np.array(sorted(found), dtype=np.int64) if found else None


def _same_rows(xb: Array, x: Array) -> NDArray[np.bool_]:
    """Which rows of xb (n, F) are also rows of x (m, F): the same images in another place."""
    known = {hash(row.tobytes()) for row in x}
    return np.array([hash(row.tobytes()) in known for row in xb])


def _collection(source: Source) -> Path:
    """The file or folder of a source, however its name was written; of a protocol the root, whatever the split."""
    name = source.name
    if source.protocol:
        protocol, _, root = name.partition("#")[0].partition(":")
        name = root or protocol
    return Path(name).expanduser().resolve()
