"""Export of stored codes: its parts, resident memory, rates beside memcpy's, and opening a bundle by mmap.

python -m benchmarks.speed export [--sizes 10000000 100000000] [--bytes 4] [--folder /big/disk]

The limit is memory traffic: building the index is shown beside FAISS taking the packed codes in one call (which copies
them into fresh memory), beside memcpy into memory that is there, and beside a copy into fresh memory, whose pages the
system must first give; writing it beside a plain write of as many bytes, both fsynced and renamed, in turn. The parts
are those of one whole export: `check` reads the codes' file, `build`, `write` and `read` are the index's, `items`
copies what belongs to the codes, `proof` searches the index and compares, `hashes` are the manifest's, and `rest` is
what remains. Memory is the peak of the
whole export, proof included, over what the process held before, and is compared with the index file. Pages of mapped
files do not count: the system drops them when it wants memory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import faiss
import h5py
import numpy as np

from benchmarks.speed.measure import Row, arguments, copy_rate, finish, goal, in_turn, peak_of, plot, show, use_threads
from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, train
from mecoq_faiss.bundle.embedding import model_fingerprint
from mecoq_faiss.index import build_index, load_index, save_index
from mecoq_faiss.index.codes import pack_codes
from mecoq_faiss.storage.files import replacing
from mecoq_faiss.storage.shards import map_array

BLOCK = 1 << 22
REPEATS = 3
PARTS = {  # of an export -> the function that does it, in the module that calls it
    "check": "jobs.export_index.count_codes",
    "build": "bundle.built.build_index",
    "write": "bundle.built.save_index",
    "items": "bundle.built.write_items",
    "read": "bundle.built.load_index",
    "proof": "bundle.built.verify",
    "hashes": "bundle.built.write_manifest",
}


def make_run(folder: Path, M: int, nbits: int) -> Path:
    """A trained run; what it learned does not matter here."""
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((1024, 16), np.float32))
    run = folder / f"run-{M}x{nbits}"
    train(folder / "x.npy", run, ModelConfig(M=M, D=8 * M, nbits=nbits, hidden=16), TrainConfig(epochs=1))
    return run


def make_codes(path: Path, run: Path, n: int) -> None:
    """A file as `encode` writes it, with n random codes and empty paths."""
    encoder = load_encoder(run, "cpu")
    config = encoder.model.config
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(key=json.dumps({"model": model_fingerprint(encoder)}), nbits=config.nbits, D=config.D)
        codes = file.create_dataset("codes", (n, config.M), "u1")
        ids = file.create_dataset("ids", (n,), "i8")
        paths = file.create_dataset("paths", (n,), h5py.string_dtype())
        for start in range(0, n, BLOCK):
            rows = min(BLOCK, n - start)
            codes[start : start + rows] = rng.integers(0, config.K, (rows, config.M), dtype=np.uint8)
            ids[start : start + rows] = np.arange(start, start + rows)
            paths[start : start + rows] = np.full(rows, "", object)


def plain_write(path: Path, data: np.ndarray) -> None:
    """Write bytes as an index is written: under another name, fsynced, renamed."""
    with replacing(path) as temporary, open(temporary, "wb", buffering=0) as file:
        for start in range(0, len(data), BLOCK):
            file.write(data[start : start + BLOCK].data)


def fresh_copy_rate(size: int = 1 << 27) -> float:
    """Bytes a second of a copy into memory that the system must first give, on one thread."""
    source = np.ones(size, np.uint8)
    return size / in_turn({"copy": source.copy}, 5)["copy"]


@contextmanager
def timed_parts() -> Iterator[Row]:
    """Seconds of each of an export's PARTS, filled in while it runs."""
    seconds: Row = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, work: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                seconds[part] += time.perf_counter() - started

        return run

    with ExitStack() as patches:
        for part, name in PARTS.items():
            target = f"mecoq_faiss.{name}"
            patches.enter_context(mock.patch(target, timed(part, resolve_name(target))))
        yield seconds


def raw_faiss(kind: str, books: np.ndarray, packed: np.ndarray) -> faiss.Index:
    """FAISS alone: all packed codes in one call."""
    M, ksub, d = books.shape
    index: Any = faiss.IndexPQ(M * d, M, ksub.bit_length() - 1, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    index.add_sa_codes(packed)
    return faiss.IndexPQFastScan(index) if kind == "pqfs" else index


def measure(folder: Path, kind: str, num_bytes: int, n: int, copy_rates: dict[str, float]) -> Row:
    nbits = 4 if kind.endswith("fs") else 8
    M = 8 * num_bytes // nbits
    run = folder / f"run-{M}x{nbits}"
    run = run if run.exists() else make_run(folder, M, nbits)
    codes_file, file = folder / f"codes-{M}x{nbits}-{n}.h5", folder / "index.faiss"
    if not codes_file.exists():
        make_codes(codes_file, run, n)
    books = load_encoder(run, "cpu").model.quantizer.unit_codebooks().detach().numpy()
    codes: Any = map_array(codes_file, "codes")
    memory = peak_of(lambda: build_index(books, codes, kind))[1]
    packed = pack_codes(np.array(codes), nbits)
    sides = {
        "build": lambda: build_index(books, codes, kind),
        "faiss": lambda packed=packed: raw_faiss(kind, books, packed),  # type: ignore[misc]
    }
    seconds = in_turn(sides, REPEATS)
    del packed, sides
    index = build_index(books, codes, kind)
    save_index(index, file)
    size = file.stat().st_size
    data = np.fromfile(file, np.uint8)
    os.sync()  # neither pays for what was written before
    seconds |= in_turn(
        {"save": partial(save_index, index, file), "plain": partial(plain_write, folder / "plain", data)}, REPEATS
    )
    del index, data
    (folder / "plain").unlink()
    row: Row = {
        "kind": kind,
        "bytes": num_bytes,
        "n": n,
        "index_mb": size / 1e6,
        "build_s": seconds["build"],
        "build_memory / index": memory / size,
        "raw_faiss_s / build_s": seconds["faiss"] / seconds["build"],
        **{f"build_rate / {name}": size / seconds["build"] / rate for name, rate in copy_rates.items()},
        "write_s": seconds["save"],
        "plain_write_s / write_s": seconds["plain"] / seconds["save"],
    }
    file.unlink()
    out = folder / "bundle"
    with timed_parts() as parts:
        export_s, memory = peak_of(lambda: export_index(run, None, out, codes=codes_file, kind=kind))
    row |= {"export_s": export_s, "export_memory / index": memory / size}
    row["export_parts_s"] = parts | {"rest": export_s - sum(parts.values())}
    started = time.perf_counter()
    load_index(out / "index.faiss", mmap=True)
    row["mmap_open_s"] = time.perf_counter() - started
    shutil.rmtree(out)
    return row


def main() -> None:
    parser = arguments(__doc__, "export")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--bytes", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=["pq", "pqfs"])
    parser.add_argument("--folder", help="where the files are made; removed afterwards")
    a = parser.parse_args()
    use_threads(a.threads)
    copy_rates = {"memcpy": copy_rate(), "fresh copy": fresh_copy_rate()}
    rows = []
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for kind in a.kinds:
            for n in a.sizes:
                rows.append(measure(Path(folder), kind, a.bytes, n, copy_rates))
                row = {name: value for name, value in rows[-1].items() if name != "export_parts_s"}
                show(f"{kind}, {n} codes of {a.bytes} bytes", [row])
                show("seconds of the whole export", [rows[-1]["export_parts_s"]])
    goals = []
    for row in rows:
        where = f"{row['kind']}, {row['n']} codes"
        if row["n"] >= 10_000_000:
            goals.append(goal(f"export, peak memory / index ({where})", row["export_memory / index"], at_most=1.2))
        if row["n"] >= 100_000_000 and row["kind"] == "pq":
            goals.append(goal(f"opening by mmap, seconds ({where})", row["mmap_open_s"], at_most=1))
    curves = {
        k: ([r["n"] for r in rows if r["kind"] == k], [r["export_s"] for r in rows if r["kind"] == k]) for k in a.kinds
    }
    plot(a.out.with_suffix(".png"), curves, "codes", "export with proof, seconds")
    finish(a.out, a, goals, memcpy_bytes_per_second=copy_rates["memcpy"], rows=rows)
