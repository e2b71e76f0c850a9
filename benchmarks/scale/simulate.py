"""Simulations of encoding on many nodes and of searching many shards, into results/scale/simulation.json.

python -m benchmarks.scale simulate [--settings FILE] [--out DIR]

What is assumed stands in simulation.toml beside this file, and again in the result. Every row is the mean of all seeds
and, beside it, their standard deviation.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from benchmarks.scale import fanout, fleet, uptime
from benchmarks.scale.measure import RATES
from benchmarks.speed.measure import Row, show
from mecoq_faiss.storage.files import write_text

SETTINGS = Path(__file__).with_name("simulation.toml")
HOURS_A_YEAR, MINUTES = 8766, 60


def encoding(s: Row) -> Iterator[tuple[Row, fleet.Fleet]]:
    """What distinguishes each run, and the run."""
    for images, mtbf, copies in product(s["shard_images"], s["node_mtbf_hours"], (False, True)):
        yield (
            {"shard_images": images, "node_mtbf_hours": mtbf, "copies of the last": copies},
            fleet.Fleet(
                shards=-(-s["images"] // images),
                nodes=s["nodes"],
                shard_time=images / s["images_per_second"],
                start=s["start_seconds"],
                sigma=s["sigma"],
                slow_share=s["slow_share"],
                slow_factor=s["slow_factor"],
                mtbf=3600 * mtbf,
                repair=s["repair_seconds"],
                copies=copies,
            ),
        )


def searching(s: Row) -> Iterator[tuple[Row, fanout.Replicas]]:
    kept = {name: s[name] for name in ("utilization", "service_ms", "sigma", "slow_chance", "slow_ms")}
    for replicas, hedge in product(s["replicas"], s["hedge_ms"]):
        if replicas > 1 or not hedge:
            yield {"replicas": replicas, "hedge_ms": hedge}, fanout.Replicas(replicas, hedge_ms=hedge, **kept)


def spread(rows: Sequence[dict[str, float]]) -> Row:
    """The mean of each figure over the seeds, with `± NAME`, their standard deviation."""
    found: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        found[name] = float(np.mean(values))
        found[f"± {name}"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return found


def run(settings: Row, workers: int) -> Row:
    """All rows of a settings file."""
    seeds = range(settings["seeds"])
    with ProcessPoolExecutor(workers) as pool:
        found: Row = {
            "encoding": _encoding(settings["encoding"], seeds, pool.map),
            "searching": _searching(settings["searching"], seeds, pool.map),
            "failures": _failures(settings["failures"], seeds, pool.map),
        }
    return found


def _encoding(s: Row, seeds: Sequence[int], over: Callable[..., Any]) -> list[Row]:
    runs = list(encoding(s))
    jobs = [(simulated, seed) for _, simulated in runs for seed in seeds]
    results = list(over(fleet.figures, *zip(*jobs, strict=True)))
    return [
        {**what, "shards": simulated.shards, **spread(results[i * len(seeds) : (i + 1) * len(seeds)])}
        for i, (what, simulated) in enumerate(runs)
    ]


def _searching(s: Row, seeds: Sequence[int], over: Callable[..., Any]) -> list[Row]:
    rows = []
    for what, simulated in searching(s):
        n = len(seeds)
        results = list(over(fanout.figures, [simulated] * n, [s["shards"]] * n, [s["requests"]] * n, seeds))
        for of_seeds in zip(*results, strict=True):
            shards = int(of_seeds[0]["shards"])
            without = [{name: value for name, value in row.items() if name != "shards"} for row in of_seeds]
            rows.append({**what, "shards": shards, **spread(without)})
    return rows


def _failures(s: Row, seeds: Sequence[int], over: Callable[..., Any]) -> list[Row]:
    mtbf, repair, n = s["replica_mtbf_hours"], s["replica_repair_minutes"] / MINUTES, len(seeds)
    rows = []
    for shards, replicas in product(s["shards"], s["replicas"]):
        options = [[value] * n for value in (shards, replicas, mtbf, repair, s["years"] * HOURS_A_YEAR)]
        shares = [{"full answers": share} for share in over(uptime.full_share, *options, seeds)]
        expected = uptime.expected_share(shards, replicas, mtbf, repair)
        rows.append({"shards": shards, "replicas": replicas, **spread(shares), "computed": expected})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--workers", type=int, default=2, help="processes; the result is the same for any number")
    parser.add_argument("--out", type=Path, default=RATES.parent, help="gets simulation.json")
    a = parser.parse_args(arguments)
    settings = tomllib.loads(a.settings.read_text(encoding="utf-8"))
    found = run(settings, a.workers)
    for name, rows in found.items():
        show(name, rows)
    a.out.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "simpy": simpy.__version__, **found}
    write_text(a.out / "simulation.json", json.dumps(content, indent=1) + "\n")
    print(f"\nwritten: {a.out / 'simulation.json'}")


if __name__ == "__main__":
    main()
