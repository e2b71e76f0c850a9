"""What 10^6 to 10^10 images cost, computed from rates.json and prices.toml, into results/scale/costs.json.

python -m benchmarks.scale costs [--prices FILE] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from pathlib import Path

from benchmarks.scale import limits
from benchmarks.scale.building import kmeans_rows
from benchmarks.scale.madeup import WIDTH
from benchmarks.scale.measure import RATES
from benchmarks.scale.rates import Rates, search_seconds
from benchmarks.speed.measure import Row, show
from mecoq_faiss.index.build import FASTSCAN_CODES
from mecoq_faiss.index.inverted_lists import default_nlist
from mecoq_faiss.storage.files import write_text

PRICES = Path(__file__).with_name("prices.toml")
SIZES, BYTES, KINDS = [10**p for p in range(6, 11)], (2, 4, 8), ("pqfs", "ivfpq")
HOUR, MONTH = 3600, 730 * 3600  # seconds
GB = 1e9


def preparing(rates: Rates, p: Row, n: int) -> Row:
    """Training once, and encoding all images once; neither depends on the bytes of a code."""
    images, price = p["images"], p["prices"]
    trained = min(n, images["trained_on"])
    batch, steps = rates.steps()
    views_h = trained * images["views"] / rates.views(images["backbone"]) / HOUR
    steps_h = images["epochs"] * trained / batch / steps / HOUR
    encode_h = n / rates.images(images["backbone"]) / HOUR
    gpu_h = (encode_h + views_h) / images["gpu_over_core"]
    read = (n + trained) * images["kilobytes"] * 1e3 / GB
    return {
        "n": n,
        "views, core hours": views_h,
        "steps, core hours": steps_h,
        "encoding, core hours": encode_h,
        "views and encoding, GPU hours": gpu_h,
        "images read, GB": read,
        "money on cores": (views_h + steps_h + encode_h) * price["core_hour"] + read * price["network_gb"],
        "money with GPUs": gpu_h * price["gpu_hour"] + steps_h * price["core_hour"] + read * price["network_gb"],
    }


def build_hours(rates: Rates, kind: str, num_bytes: int, n: int, shards: int) -> float:
    """Core hours of making the index of all shards from codes."""
    if kind != "ivfpq":
        return n / rates.built(kind, num_bytes) / HOUR
    share = -(-n // shards)
    nlist = default_nlist(share)
    multiply_adds = (kmeans_rows(num_bytes, share, nlist) + share) * nlist * WIDTH * num_bytes
    return shards * (multiply_adds / rates.macs(num_bytes, nlist) + share / rates.filled()) / HOUR


def placing(rates: Rates, p: Row, kind: str, num_bytes: int, n: int) -> Row:
    """Shards, copies and machines that hold the codes and answer the queries.

    As many shards as memory asks for, or more where one core would take too long for a shard's codes; as many copies
    as asked for, or more where the cores of one do not suffice for the queries.
    """
    machine, queries = p["machine"], p["queries"]
    memory = n * rates.bytes(kind, "memory / code", num_bytes)
    by_memory = math.ceil(memory / (machine["memory_gb"] * GB * machine["index_share"]))
    seconds = search_seconds(rates, kind, num_bytes)
    shards = max(by_memory, math.ceil(n / FASTSCAN_CODES) if kind == "pqfs" else 1)
    while seconds(n / shards) > queries["latency_ms"] / 1000:
        shards = math.ceil(shards * max(1.01, min(2.0, seconds(n / shards) * 1000 / queries["latency_ms"])))
    hosts = max(by_memory, math.ceil(shards / machine["cores"]))  # of one copy
    core_s = shards * seconds(n / shards)
    capacity = hosts * machine["cores"] * machine["busy"]  # core seconds a second
    copies = max(queries["replicas"], math.ceil(queries["per_second"] * core_s / capacity))
    return {
        "shards": shards,
        "copies": copies,
        "machines": hosts * copies,
        "memory, GB": copies * memory / GB,
        "core ms a query": 1000 * core_s,
        "ms a query, one core a shard": 1000 * seconds(n / shards),
    }


def keeping(rates: Rates, p: Row, kind: str, num_bytes: int, n: int) -> Row:
    """A whole row: build once, hold and search for a month, in resources and in money."""
    place = placing(rates, p, kind, num_bytes, n)
    price, machine, queries = p["prices"], p["machine"], p["queries"]
    file = n * rates.bytes(kind, "file / code", num_bytes)
    items = n * (num_bytes + p["items"]["bytes"])
    disk = (place["copies"] * file + items) / GB
    stored = (file + items) / GB  # a second time, in an object store
    build_h = build_hours(rates, kind, num_bytes, n, place["shards"])
    asked = queries["per_second"] * MONTH * place["shards"] * (4 * WIDTH * num_bytes + 12 * queries["k"]) / GB
    moved = (n * (num_bytes + 8) + place["copies"] * file) / GB  # codes to the builders, indexes to the machines
    used_h = queries["per_second"] * place["core ms a query"] / 1000 * MONTH / HOUR
    rent = machine["cores"] * MONTH / HOUR * price["core_hour"] + machine["memory_gb"] * price["memory_gb_month"]
    kept = disk * price["disk_gb_month"] + stored * price["object_gb_month"] + asked * price["network_gb"]
    return {
        "n": n,
        "bytes": num_bytes,
        "kind": kind,
        "build, core hours": build_h,
        **place,
        "disk, GB": disk,
        "object store, GB": stored,
        "network once, GB": moved,
        "network a month, GB": asked,
        "search, core hours a month": used_h,
        "money of the build": build_h * price["core_hour"] + moved * price["network_gb"],
        "money a month, as used": place["memory, GB"] * price["memory_gb_month"] + used_h * price["core_hour"] + kept,
        "money a month, whole machines": place["machines"] * rent + kept,
    }


def compute(rates: Rates, p: Row) -> Row:
    """All tables."""
    return {
        "once": [preparing(rates, p, n) for n in SIZES],
        "kept": [keeping(rates, p, kind, b, n) for n in SIZES for b in BYTES for kind in KINDS],
        **limits.compute(rates, p, SIZES, BYTES),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--prices", type=Path, default=PRICES)
    parser.add_argument("--out", type=Path, default=RATES.parent, help="gets costs.json")
    a = parser.parse_args(arguments)
    prices = tomllib.loads(a.prices.read_text(encoding="utf-8"))
    try:
        found = compute(Rates.read(a.rates), prices)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, rows in found.items():
        show(name, rows)
    a.out.mkdir(parents=True, exist_ok=True)
    write_text(a.out / "costs.json", json.dumps({"assumed": prices, **found}, indent=1, default=str) + "\n")
    print(f"\nwritten: {a.out / 'costs.json'}")


if __name__ == "__main__":
    main()
