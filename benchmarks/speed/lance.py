"""Codes in shards as FAISS indexes, and as one Lance dataset: recall and time (extra: lance).

python -m benchmarks.speed lance [--sizes 100000 1000000] [--bytes 4] [--shards 4] [--store s3://bucket/folder]

Both hold the same codes and search all of them. Recall@10 is against the one index of all codes, ties counted as found;
times are of one query at a time, with the dataset and the indexes open. The dataset lies on the local disk, and where
`--store` names an object store (extra: s3fs; the environment says where it is and who asks) a copy of it there is
searched too.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import fsspec
import lance
import numpy as np
import pyarrow as pa

from benchmarks.speed.filtered import K, made, recall
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, show, use_threads
from mecoq_faiss.index import build_index
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.index.merged import MergedShards
from mecoq_faiss.index.part import IndexPart
from mecoq_faiss.integrations.lance import add_index

ROWS = 1 << 16


def dataset_of(books: np.ndarray, codes: np.ndarray, out: Path) -> lance.LanceDataset:
    """The dataset that `to_lance` makes, of ids and vectors alone."""
    d = books.shape[0] * books.shape[2]
    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), d))])

    def batches() -> pa.RecordBatch:
        for start in range(0, len(codes), ROWS):
            block = codes[start : start + ROWS]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(decode_codes(books, block).ravel()), d)
            yield pa.RecordBatch.from_arrays([pa.array(np.arange(start, start + len(block))), vectors], schema=schema)

    dataset = lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), out)
    add_index(dataset, books)
    return lance.dataset(out)


def stored(dataset: Path, url: str) -> lance.LanceDataset:
    """The copy of a dataset in an object store."""
    files, place = fsspec.core.url_to_fs(url)
    files.put(str(dataset), place, recursive=True)
    return lance.dataset(url)


def measure(n: int, a: argparse.Namespace, folder: Path) -> Row:
    """A row for one size."""
    books, codes, xq = made(a.bytes, 8, n, a.num_queries)
    one = build_index(books, codes)
    edges = np.linspace(0, n, a.shards + 1).astype(int)
    pairs = pairwise(edges)
    shards = MergedShards([IndexPart(build_index(books, codes[start:stop])) for start, stop in pairs])
    datasets = {"Lance": dataset_of(books, codes, folder / f"{n}.lance")}
    if a.store:
        datasets["stored"] = stored(folder / f"{n}.lance", f"{a.store}/{n}.lance")

    def found_in(dataset: lance.LanceDataset) -> np.ndarray:
        found = np.full((len(xq), K), -1, np.int64)
        for row, q in zip(found, xq, strict=True):
            near = {"column": "vector", "q": q, "k": K}
            ids = dataset.to_table(columns=["id", "_distance"], nearest=near)["id"].to_numpy()
            row[: len(ids)] = ids
        return found

    def in_shards() -> np.ndarray:
        return np.concatenate([shards.search(q[None], K)[1] for q in xq])

    seconds = in_turn(
        {
            "one index": lambda: [one.search(q[None], K) for q in xq],
            "shards": in_shards,
            **{name: partial(found_in, dataset) for name, dataset in datasets.items()},
        },
        a.repeats,
    )
    kth = one.search(xq, K)[0][:, -1]
    recalls = {}
    for name, I in {"shards": in_shards(), **{name: found_in(dataset) for name, dataset in datasets.items()}}.items():
        vectors = decode_codes(books, codes[np.maximum(I, 0).ravel()]).reshape(*I.shape, -1)
        recalls[name] = recall(I, np.einsum("qd,qkd->qk", xq, vectors), kth)
    on_disk = sum(file.stat().st_size for file in (folder / f"{n}.lance").rglob("*") if file.is_file())
    row = {
        "n": n, "shards": a.shards, "recall shards": recalls["shards"], "recall Lance": recalls["Lance"],
        "shards / one index": seconds["shards"] / seconds["one index"],
        "Lance / shards": seconds["Lance"] / seconds["shards"], "Lance bytes an item": on_disk / n,
    }  # fmt: skip
    if a.store:
        row |= {"recall stored": recalls["stored"], "stored / Lance": seconds["stored"] / seconds["Lance"]}
    return row


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, "lance")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--bytes", type=int, default=4)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--num-queries", type=int, default=50)
    parser.add_argument("--store", help="URL of a folder of an object store")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    use_threads(a.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(n, a, Path(folder)) for n in a.sizes]
    show("lance", rows)
    least = min(row["recall Lance"] for row in rows)
    finish(a.out, a, [goal("recall of Lance, the least", least, at_least=1.0)], lance=rows)
