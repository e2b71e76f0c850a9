"""Update: adding and removing 1,000 items of a large bundle, beside a fresh export of the same stored codes.

python -m benchmarks.speed update [--sizes 1000000 10000000] [--bytes 4] [--kinds pq pqfs] [--folder /big/disk]

A fresh export here encodes nothing: it is what any change would cost at least, were there no update. Memory is the peak
of anonymous pages over that before, beside the index file's size; pages of mapped files do not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import h5py
import numpy as np

from benchmarks.speed.export import make_run
from benchmarks.speed.measure import Row, arguments, finish, goal, peak_of, show, use_threads
from mecoq_faiss import export_index, load_encoder
from mecoq_faiss.bundle.embedding import model_fingerprint
from mecoq_faiss.bundle.living import drop, follow
from mecoq_faiss.data.sources import open_source

BLOCK = 1 << 20
CHANGED = 1000


def make_items(path: Path, run: Path, n: int) -> None:
    """A file as `encode` writes it, with n random codes, paths, and hashes that no file has."""
    encoder = load_encoder(run, "cpu")
    config = encoder.model.config
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(key=json.dumps({"model": model_fingerprint(encoder)}), nbits=config.nbits, D=config.D)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "codes": ((config.M,), "u1"), "ids": ((), "i8"), "size": ((), "i8"), "mtime_ns": ((), "i8"),
            "sha256": ((32,), "u1"), "error": ((), "f4"),
        }  # fmt: skip
        made = {name: file.create_dataset(name, (n, *shape), dtype) for name, (shape, dtype) in shapes.items()}
        paths = file.create_dataset("paths", (n,), h5py.string_dtype())
        for start in range(0, n, BLOCK):
            rows = np.arange(start, min(n, start + BLOCK))
            made["codes"][rows[0] : rows[-1] + 1] = rng.integers(0, config.K, (len(rows), config.M), dtype=np.uint8)
            for name in ("ids", "size", "mtime_ns"):
                made[name][rows[0] : rows[-1] + 1] = rows
            made["error"][rows[0] : rows[-1] + 1] = rng.random(len(rows), np.float32)
            made["sha256"][rows[0] : rows[-1] + 1] = rng.integers(1, 255, (len(rows), 32), dtype=np.uint8)
            paths[rows[0] : rows[-1] + 1] = np.array([f"folder-{row // 1000:05}/{row:09}.jpg" for row in rows], object)


def measure(folder: Path, kind: str, num_bytes: int, n: int) -> Row:
    """One bundle: exported, then added to, then removed from."""
    nbits = 4 if kind.endswith("fs") else 8
    run = make_run(folder, 8 * num_bytes // nbits, nbits)
    make_items(folder / "items.h5", run, n)
    bundle = folder / "bundle"
    export_s, export_peak = peak_of(lambda: export_index(run, None, bundle, codes=folder / "items.h5", kind=kind))
    with h5py.File(folder / "new.h5", "w") as file:
        file["features"] = np.random.default_rng(1).standard_normal((CHANGED, 16), np.float32)
        file["paths"] = [f"new/{i}" for i in range(CHANGED)]
    new = open_source(folder / "new.h5", "database")
    size = (bundle / "index.faiss").stat().st_size
    add_s, add_peak = peak_of(lambda: follow(bundle, new, whole=False, device="cpu"))
    ids = np.arange(0, n, n // CHANGED)[:CHANGED]
    remove_s, remove_peak = peak_of(lambda: drop(bundle, ids, device="cpu"))
    for path in sorted(bundle.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    bundle.rmdir()
    return {
        "kind": kind, "n": n, "index_bytes": size, "export_s": export_s, "add_s": add_s, "remove_s": remove_s,
        "add / export": add_s / export_s, "remove / export": remove_s / export_s,
        "export peak / index": export_peak / size, "add peak / index": add_peak / size,
        "remove peak / index": remove_peak / size,
    }  # fmt: skip


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, "update")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--bytes", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=["pq", "pqfs"])
    parser.add_argument("--folder", help="where the files are made; removed afterwards")
    a = parser.parse_args()
    use_threads(a.threads)
    rows = []
    for kind in a.kinds:
        for n in a.sizes:
            with tempfile.TemporaryDirectory(dir=a.folder) as folder:
                rows.append(measure(Path(folder), kind, a.bytes, n))
            show("update", rows)
    goals = [
        goal(f"{name} at {row['n']:,} codes, {row['kind']}", row[name], at_most=most)
        for row in rows
        if row["n"] >= 10_000_000
        for name, most in (("add / export", 1.0), ("add peak / index", 1.2), ("remove peak / index", 1.2))
    ]
    finish(a.out, a, goals, rows=rows)
