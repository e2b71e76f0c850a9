"""Which figures docs/scale.md shows, in which tables: a section a question, a table an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

from benchmarks.scale import words
from benchmarks.speed.measure import Row

Columns = dict[str, str]
Tables = Iterator[tuple[str, Columns, list[Row]]]  # caption, heading -> key, rows
LIST_BYTES = 4  # the inverted files shown


class Section(NamedTuple):
    title: str
    source: str  # the file of its figures
    mark: str
    text: str
    tables: Callable[[Row], Tables]


def measured(part: str, *tables: tuple[str, Columns]) -> Callable[[Row], Tables]:
    """Tables of what one part measured, and of what it left out."""

    def of(content: Row) -> Tables:
        rows = content["parts"].get(part, [])
        for what, columns in tables:
            yield _machine(content), columns, [row for row in rows if row["what"] == what]
        skipped = [row for row in content["skipped"] if row["part"] == part]
        for keys, group in groupby(skipped, tuple):
            shown = {name: name for name in keys if name not in ("part", "folder")}
            yield words.SKIPPED, shown, list(group)

    return of


def _machine(content: Row) -> str:
    m = content["machine"]
    return f"One thread a process, {m['cores']} cores, FAISS {m['faiss']} ({m['simd']}), torch {m['torch']}."


def once(content: Row) -> Tables:
    names = list(content["once"][0])
    yield "", {"images" if name == "n" else name: name for name in names}, content["once"]


def cheaper(content: Row) -> list[Row]:
    """Of each size the kind that costs less a month as used."""
    rows = content["kept"]
    groups = groupby(rows, lambda row: (row["n"], row["bytes"]))
    return [min(group, key=lambda row: row["money a month, as used"]) for _, group in groups]


def kept(content: Row) -> Tables:
    names = ("shards", "copies", "machines", "memory, GB", "disk, GB", "object store, GB", "network once, GB")
    costly = ("network a month, GB", "build, core hours", "core ms a query", "search, core hours a month")
    yield "", _columns(*names, *costly), cheaper(content)


def money(content: Row) -> Tables:
    names = ("money of the build", "money a month, as used", "money a month, whole machines")
    yield f"In {content['assumed']['currency']}.", _columns(*names), cheaper(content)
    scanned = [row for row in content["kept"] if row["kind"] == "pqfs" and row["bytes"] == LIST_BYTES]
    yield words.SCANNED, _columns("shards", "copies", "machines", "core ms a query", *names[1:]), scanned


def _columns(*names: str) -> Columns:
    return {"images": "n", "bytes": "bytes", "kind": "kind", **{name: name for name in names}}


def limits(content: Row) -> Tables:
    rows = content["limits"]
    turned = [{"where": name, **{str(row["bytes"]): row[name] for row in rows}} for name in rows[0] if name != "bytes"]
    yield "", {"where": "where", **{f"{row['bytes']} bytes": str(row["bytes"]) for row in rows}}, turned


def lists(content: Row) -> Tables:
    rows = [row for row in content["lists"] if row["bytes"] == LIST_BYTES]
    names = [name for name in rows[0] if name not in ("n", "bytes")]
    yield f"Codes of {LIST_BYTES} bytes.", {"images": "n", **{name: name for name in names}}, rows


def cadence(content: Row) -> Tables:
    names = [name for name in content["cadence"][0] if name != "n"]
    yield "", {"images": "n", **{name: name for name in names}}, content["cadence"]


def fleet(content: Row) -> Tables:
    s = content["settings"]["encoding"]
    names = ("shards", "copies of the last", "hours", "over ideal", "node time / work", "restarts", "copies")
    for mtbf, group in groupby(sorted(content["encoding"], key=lambda row: row["node_mtbf_hours"]), _mtbf):
        fails = f"a node fails every {mtbf:,} hours" if mtbf else "no node fails"
        caption = f"{s['images']:,} images on {s['nodes']:,} nodes; {fails}."
        yield caption, {"images a shard": "shard_images", **{name: name for name in names}}, list(group)


def _mtbf(row: Row) -> int:
    return row["node_mtbf_hours"]


def fanout(content: Row) -> Tables:
    names = ("shards", "p50", "p99", "p99.9", "asked twice")
    columns = {"replicas": "replicas", "hedge, ms": "hedge_ms", **{name: name for name in names}}
    yield "", columns, content["searching"]


def uptime(content: Row) -> Tables:
    rows = [
        {**row, **{name: f"{100 * row[name]:.5f} %" for name in ("full answers", "computed")}, "± full answers": None}
        for row in content["failures"]
    ]
    yield "", {name: name for name in ("shards", "replicas", "full answers", "computed")}, rows


RATE = {"a second": "per_second", "per core": "per_second_a_core"}
LOAD = {"load before": "load_before"}
CODES = {"kind": "kind", "bytes": "num_bytes", "codes": "n"}
ENCODING = (
    ("bare backbone", {"backbone, bare": "backbone", "px": "image_size", **RATE, **LOAD}),
    ("files to codes", {"from files": "backbone", "px": "image_size", "processes": "workers", **RATE, **LOAD}),
)
TRAINING = (
    ("views into the cache", {"backbone": "backbone", "px": "image_size", "views a second": "per_second", **LOAD}),
    ("steps on cached features", {"batch": "batch", "steps a second": "per_second", **LOAD}),
)
BUILD = {
    "nlist": "nlist",
    "codes a second": "per_second",
    "memory / codes": "memory / codes",
    "k-means, s": "kmeans_s",
    "assign, s": "assign_s",
}
BUILDING = (
    ("build", CODES | BUILD | LOAD),
    ("assign", {"bytes": "num_bytes", "nlist": "nlist", "multiply-adds a second": "macs_per_s", **LOAD}),
)
SHARD = {
    "kind": "kind",
    "codes": "codes",
    "processes": "workers",
    "codes a second": "per_second",
    "over codes": "memory / codes",
    "over file": "memory / index file",
    "1.3 or over": "goal missed",
    "whole process": "whole process / codes",
}
SHARDS = (("shards", SHARD | LOAD),)
SEARCH = {"nlist": "nlist", "nprobe": "nprobe", "ms, alone": "alone_ms", "ms, of many": "ms"}
SEARCHING = (
    ("search", CODES | SEARCH | LOAD),
    ("merge", {"shards merged": "shards", "k": "k", "us a query": "us", **LOAD}),
)
OPEN = {
    "kind": "kind",
    "codes": "n",
    "file, bytes a code": "file / code",
    "memory, bytes a code": "memory / code",
    "open, s": "open_s",
    "cold, s": "cold_open_s",
    "mapped, s": "mmap_open_s",
    "mapped, bytes a code": "mmap memory / code",
    "first search, s": "mmap_first_search_s",
}
DISK = {"bytes": "bytes", "written a second": "write_bytes_per_s", "read a second": "read_bytes_per_s"}
FILES = (("open", OPEN | LOAD), ("disk", DISK | LOAD))

SECTIONS = (
    Section("What does it cost once?", "costs", "Computed", words.ONCE, once),
    Section("What does it take to hold and to search?", "costs", "Computed", words.KEPT, kept),
    Section("What does that cost?", "costs", "Computed", words.MONEY, money),
    Section("Where must each part change?", "costs", "Computed", words.LIMITS, limits),
    Section("How many lists?", "costs", "Computed", words.LISTS, lists),
    Section("How often can it be brought up to date?", "costs", "Computed", words.CADENCE, cadence),
    Section("How long do a thousand nodes encode?", "simulation", "Simulated", words.FLEET, fleet),
    Section("How slow is the slowest shard?", "simulation", "Simulated", words.FANOUT, fanout),
    Section("How many answers are whole?", "simulation", "Simulated", words.UPTIME, uptime),
    Section("How fast is encoding?", "rates", "Measured", words.ENCODING, measured("encoding", *ENCODING)),
    Section("How fast is training?", "rates", "Measured", words.TRAINING, measured("training", *TRAINING)),
    Section("How fast is building?", "rates", "Measured", words.BUILDING, measured("building", *BUILDING)),
    Section("Do processes build side by side?", "rates", "Measured", words.SHARDS, measured("shards", *SHARDS)),
    Section("How fast is searching?", "rates", "Measured", words.SEARCHING, measured("searching", *SEARCHING)),
    Section("How large are files, how fast do they open?", "rates", "Measured", words.FILES, measured("files", *FILES)),
)
