"""What the speed benchmarks share: times of both sides taken in turn, the goals, the machine, tables, JSON, plots."""

from __future__ import annotations

import argparse
import ctypes
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.runtime.environment import environment
from mecoq_faiss.storage.files import replacing, write_text

RESULTS = Path(__file__).parents[1] / "results"
SOURCES = ("data", "bundle", "queries")
SAMPLE_SECONDS = 0.005
Row = dict[str, Any]


def arguments(doc: str | None, name: str) -> argparse.ArgumentParser:
    """--threads and --out, which every speed benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of FAISS and torch (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def use_threads(number: int) -> None:
    import torch  # not above: processes that only search are measured without it

    faiss.omp_set_num_threads(number)
    torch.set_num_threads(number)


def in_turn(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each side, the best of `repeats`.

    The sides take turns, each at times the first, so that neither a busy moment nor what the other leaves in the caches
    favours one.

    With `time.process_time` for the clock, CPU time of this process: right for work without waiting or helpers, and
    what other programs on the machine take does not count.
    """
    seconds = dict.fromkeys(sides, float("inf"))
    for turn in range(repeats):
        for name, side in list(sides.items())[:: -1 if turn % 2 else 1]:
            started = clock()
            side()
            seconds[name] = min(seconds[name], clock() - started)
    return seconds


def copy_rate(size: int = 1 << 27) -> float:
    """Bytes a second of memcpy on one thread."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return size / in_turn({"copy": lambda: np.copyto(target, source)}, 5)["copy"]


def resident(name: str) -> int:
    """A line of this process's status, such as RssAnon, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} in /proc/self/status: this benchmark needs Linux")


def peak_of(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and the most anonymous memory at once over that before, sampled. Linux.

    Mapped files are left out: the system lets go of their pages when it wants memory.
    """
    ctypes.CDLL(None).malloc_trim(0)  # free memory goes back, so that its use shows
    before = peak = resident("RssAnon")
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        work()
        seconds = time.perf_counter() - started
    finally:
        done.set()
        watcher.join()
    return seconds, max(peak, resident("RssAnon")) - before


def goal(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """A ratio beside what was asked of it."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    wanted = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    return {"goal": what, "measured": value, "wanted": wanted, "met": met}


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows that share their keys as a table."""
    print(f"\n{title}")
    if not rows:
        return
    texts = [list(rows[0])] + [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        print("  " + "  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)))


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def finish(out: Path, settings: argparse.Namespace, goals: Sequence[Row], **results: Any) -> None:
    """Print the goals, write everything with the machine's description into `out`."""
    show("goals", goals)
    # where this machine keeps its files is nobody's business: names only
    kept = {
        n: Path(v).name if n in SOURCES and v else v for n, v in vars(settings).items() if n not in ("out", "folder")
    }
    content = {"machine": environment(), "settings": kept, "goals": list(goals), **results}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(content, indent=1) + "\n")
    print(f"\nwritten: {out}")


def plot(
    path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log: str = "xy"
) -> None:
    """Curves (name -> xs, ys) into a PNG, where matplotlib is installed; `log` names the logarithmic axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no matplotlib: {path.name} is not drawn")
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in curves.items():
        axes.plot(xs, ys, marker="o", markersize=4, label=name)
    axes.set(xlabel=x, ylabel=y, xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
