"""Where each part must change as a collection grows: numbers of images, computed from the measured rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.scale.madeup import WIDTH
from benchmarks.scale.rates import Rates
from benchmarks.speed.measure import Row
from mecoq_faiss.index.build import FASTSCAN_CODES, GPU_LIST, GPU_NLIST
from mecoq_faiss.index.inverted_lists import default_nlist, default_nprobe

PER_ROOT = 4  # default nlist over sqrt(n)
NIGHTLY = 3600  # seconds that writing a whole index again may take each night


def compute(rates: Rates, p: Row, sizes: Sequence[int], bytes: Sequence[int]) -> Row:
    """The three tables; `encoded` is the images a second of one core."""
    encoded = rates.images(p["images"]["backbone"])
    return {
        "lists": [lists(rates, p, encoded, b, n) for b in bytes for n in sizes],
        "limits": [of_codes(rates, p, encoded, b) for b in bytes],
        "cadence": [cadence(rates, p, encoded, n) for n in sizes],
    }


def lists(rates: Rates, p: Row, encoded: float, num_bytes: int, n: int) -> Row:
    """The default inverted file of one index of n codes: what it costs to find lists and to scan them."""
    nlist = default_nlist(n)
    nprobe, D = default_nprobe(nlist), WIDTH * num_bytes
    a, b, _ = rates.lists(num_bytes)
    assign = nlist * D / rates.macs(num_bytes, nlist)
    find, scan = a * nlist * D, b * nprobe * n / nlist
    return {
        "bytes": num_bytes,
        "n": n,
        "nlist": nlist,
        "nprobe": nprobe,
        "codes a list": n / nlist,
        "query: find lists, ms": 1000 * find,
        "query: scan them, ms": 1000 * scan,
        "queries a second of a machine": p["machine"]["cores"] * p["machine"]["busy"] / (find + scan),
        "build: assign an image, ms": 1000 * assign,
        "assign / encode": assign * encoded,
        "centroids, MB": 4 * nlist * D / 1e6,
    }


def of_codes(rates: Rates, p: Row, encoded: float, num_bytes: int) -> Row:
    """Images at which something else is needed, for codes of so many bytes."""
    queries, machine = p["queries"], p["machine"]
    latency, usable = queries["latency_ms"] / 1000, machine["memory_gb"] * 1e9 * machine["index_share"]
    macs = rates.macs(num_bytes, 1 << 20)  # the rate of the most lists measured
    cores = machine["cores"] * machine["busy"]

    def equal(images_per_second: float) -> float:
        """Images whose assignment to 4 sqrt(n) centroids takes as long as one image's encoding."""
        return (macs / (PER_ROOT * WIDTH * num_bytes * images_per_second)) ** 2

    return {
        "bytes": num_bytes,
        "one core scans pq within the latency": latency / rates.scan("pq", num_bytes),
        "one core scans pqfs within the latency": latency / rates.scan("pqfs", num_bytes),
        "assigning costs more than encoding on a core": equal(encoded),
        "assigning on a core costs more than encoding on a GPU": equal(encoded * p["images"]["gpu_over_core"]),
        "a machine's memory is full of pqfs": usable / rates.bytes("pqfs", "memory / code", num_bytes),
        "a machine's memory is full of ivfpq": usable / rates.bytes("ivfpq", "memory / code", num_bytes),
        "a machine's cores are busy with pqfs": cores / queries["per_second"] / rates.scan("pqfs", num_bytes),
        "FastScan takes no more in one index": float(FASTSCAN_CODES),
        "ivfpq-all has all its lists full": float(GPU_NLIST * GPU_LIST),
    }


def cadence(rates: Rates, p: Row, encoded: float, n: int) -> Row:
    """What a month's new images cost, and a whole index file written again, at 4 bytes."""
    write, _ = rates.disk()
    new = n * p["updates"]["new_a_month"]
    file = n * rates.bytes("ivfpq", "file / code", 4)
    return {
        "n": n,
        "new images a month": new,
        "encoding them, core hours": new / encoded / 3600,
        "machine hours, all cores": new / encoded / 3600 / p["machine"]["cores"],
        "index file written on one disk, s": file / write,
        "shards, so that each is written in an hour": max(1.0, file / write / NIGHTLY),
        "months until nlist, that follows the root, doubles": math.log(4, 1 + p["updates"]["new_a_month"]),
    }
