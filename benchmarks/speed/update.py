"""Update: adding and removing 1,000 items of a large bundle, beside a fresh export of the same stored codes.

python -m benchmarks.speed update [--sizes 1000000 10000000] [--bytes 4] [--kinds pq pqfs] [--folder /big/disk]

A fresh export here encodes nothing: it is what any change would cost at least, were there no update. Memory is the peak
of anonymous pages over that before, beside the index file's size; pages of mapped files do not count. Bytes are those
that the process read and wrote by system calls, beside the index's and the change's; what it looks at in mapped files
does not count. New paths are as long as old ones, so that their length alone tells nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
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


def bytes_of(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that `work` reads and writes by system calls. Linux."""
    before = _counted()
    work()
    read, written = _counted()
    return read - before[0], written - before[1]


def _counted() -> tuple[int, int]:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def measured(work: Callable[[], object]) -> tuple[float, float, int, int, int]:
    """Seconds, of the processor too, peak memory, and bytes read and written."""
    seconds = memory = 0.0
    started = time.process_time()

    def run() -> None:
        nonlocal seconds, memory
        seconds, memory = peak_of(work)

    read, written = bytes_of(run)
    return seconds, time.process_time() - started, int(memory), read, written


def measure(folder: Path, kind: str, num_bytes: int, n: int) -> Row:
    """One bundle: exported, then added to, then removed from."""
    nbits = 4 if kind.endswith("fs") else 8
    run = make_run(folder, 8 * num_bytes // nbits, nbits)
    make_items(folder / "items.h5", run, n)
    bundle = folder / "bundle"
    sides = {"export": measured(lambda: export_index(run, None, bundle, codes=folder / "items.h5", kind=kind))}
    with h5py.File(folder / "new.h5", "w") as file:
        file["features"] = np.random.default_rng(1).standard_normal((CHANGED, 16), np.float32)
        file["paths"] = [f"folder-{i // 1000:05}/{i:09}.png" for i in range(CHANGED)]
    new = open_source(folder / "new.h5", "database")
    size = (bundle / "index.faiss").stat().st_size
    sides["add"] = measured(lambda: follow(bundle, new, whole=False, device="cpu"))
    change = (bundle / "items-000002.h5").stat().st_size
    ids = np.arange(0, n, n // CHANGED)[:CHANGED]
    sides["remove"] = measured(lambda: drop(bundle, ids, device="cpu"))
    for path in sorted(bundle.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    bundle.rmdir()
    export = sides["export"]
    row: Row = {"kind": kind, "n": n, "index_bytes": size, "change_bytes": change}
    for name, (seconds, cpu, memory, read, written) in sides.items():
        row |= {f"{name}_s": seconds, f"{name}_cpu_s": cpu}
        if name != "export":
            row |= {f"{name} / export": seconds / export[0], f"{name} / export, cpu": cpu / export[1]}
        row[f"{name} peak / index"] = memory / size
        moved = size + (change if name == "add" else 0)
        row |= {f"{name} read / moved": read / moved, f"{name} written / moved": written / moved}
    return row


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
