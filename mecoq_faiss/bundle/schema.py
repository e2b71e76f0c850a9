"""What a manifest must say: its required parts, their types and ranges. Other parts may come with later versions."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from mecoq_faiss.config import CODES
from mecoq_faiss.index import KINDS
from mecoq_faiss.index.build import FORMER

LARGEST = 2**63 - 1
REQUIRED: dict[str, tuple[type, Any]] = {
    "kind": (str, KINDS),
    "M": (int, 1),
    "nbits": (int, (4, 8)),
    "d": (int, 1),
    "counts": (dict, None),
    "counts.items": (int, 1),
    "files": (dict, None),
}
OPTIONAL: dict[str, tuple[type, Any]] = {
    "bytes_per_code": (float, 1),
    "metric": (str, ("inner_product",)),
    "query_normalisation": (str, None),
    "codes": (str, CODES),
    "query_repeats": (int, 1),
    "nlist": (int, 1),
    "nprobe": (int, 1),
    "refine": (float, 1),
    "has_ids": (bool, None),
    "preprocessing": (dict, None),
    "counts.source_items": (int, 1),
    "counts.unreadable": (int, 0),
    "source": (str, None),
    "created": (str, None),
    "updated": (str, None),
    "segments": (list, None),
    "next_id": (int, 0),
    "first_new_id": (int, 0),
    "history": (list, None),
    "metadata": (dict, None),
    "shards": (list, None),
    "versions": (dict, None),
    "verification": (dict, None),
}
OF_A_FILE: dict[str, tuple[type, Any]] = {"bytes": (int, 0), "sha256": (str, re.compile("[0-9a-f]{64}"))}
OF_A_SHARD: dict[str, tuple[type, Any]] = {
    "folder": (str, re.compile(r"shard-\d{6}")),
    "items": (int, 1),
    **OF_A_FILE,  # of its manifest.json
}
METADATA = "metadata.parquet"
METADATA_TYPES = ("BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "DATE", "TIMESTAMP")  # as DuckDB calls them
SEGMENT = re.compile(r"items(-\d{6})?\.h5")
MAY_BE_NULL = ("nlist", "nprobe", "refine")


def check_manifest(manifest: dict[str, Any], bundle: str | Path) -> None:
    """ValueError, in one line, for the first part of a bundle's manifest that is missing, mistyped or out of range.

    The tables above say what is allowed: a type (`float` stands for every finite number) and a smallest number, the
    values to choose from, or a pattern. A kind's former name is replaced by today's.
    """
    kind = manifest.get("kind")
    if isinstance(kind, str):
        manifest["kind"] = FORMER.get(kind, kind)
    reason = _wrong(manifest)
    if reason is not None:
        raise ValueError(f"{Path(bundle) / 'manifest.json'} is damaged ({reason}): export the bundle again")


def _wrong(manifest: dict[str, Any]) -> str | None:
    for table, required in ((REQUIRED, True), (OPTIONAL, False)):
        for name, (expected, allowed) in table.items():
            holder: Any = manifest
            *outer, last = name.split(".")
            for part in outer:
                holder = holder[part]
            if last not in holder:
                if required:
                    return f"no {name}"
                continue
            value = holder[last]
            if not (value is None and name in MAY_BE_NULL) and not _fits(value, expected, allowed):
                return f"{name} is {_shown(value)}"
    for name, entry in manifest["files"].items():
        for part, (expected, allowed) in OF_A_FILE.items():
            if not isinstance(entry, dict) or part not in entry or not _fits(entry[part], expected, allowed):
                return f"the {part} of {_shown(name)} are not there or wrong"
    for name in manifest.get("segments", ()):
        if not isinstance(name, str) or not SEGMENT.fullmatch(name) or name not in manifest["files"]:
            return f"a segment is {_shown(name)}"
    if manifest.get("segments") == [] or len(set(manifest.get("segments", ()))) < len(manifest.get("segments", ())):
        return "segments are none, or one twice"
    if "shards" in manifest and not _shards_fit(manifest):
        return "its shards are not told as they should be"
    if not all(isinstance(entry, dict) for entry in manifest.get("history", ())):
        return "history is no list of entries"
    if not _metadata_fit(manifest):
        return "metadata are not said as they should be"
    M, nbits, d = (manifest[name] for name in ("M", "nbits", "d"))
    if d % M or M * nbits % 8 or manifest.get("bytes_per_code", M * nbits / 8) != M * nbits / 8:
        return f"d={_shown(d)}, M={_shown(M)}, nbits={nbits} and its bytes_per_code do not fit each other"
    if manifest.get("query_repeats", 1) != (M if manifest.get("codes") == "additive" else 1):
        return f"query_repeats is {_shown(manifest.get('query_repeats', 1))}"
    return None


def _shards_fit(manifest: dict[str, Any]) -> bool:
    """Whether there are shards, each once, with all items and all files, and the id that the next new item gets."""
    shards = manifest["shards"]
    whole = _fits(manifest.get("next_id"), int, 0) and not manifest["files"]
    if not shards or not whole or not all(isinstance(shard, dict) for shard in shards):
        return False
    for shard in shards:
        if not all(part in shard and _fits(shard[part], *rule) for part, rule in OF_A_SHARD.items()):
            return False
    folders = {shard["folder"] for shard in shards}
    return len(folders) == len(shards) and sum(shard["items"] for shard in shards) == manifest["counts"]["items"]


def _metadata_fit(manifest: dict[str, Any]) -> bool:
    """Whether there are metadata and their description, or neither; at most a row an item. Shards have them, or not."""
    if "metadata" not in manifest or (METADATA not in manifest["files"] and "shards" not in manifest):
        return "metadata" not in manifest and METADATA not in manifest["files"]
    rows, columns = (manifest["metadata"].get(name) for name in ("rows", "columns"))
    if not _fits(rows, int, 1) or rows > manifest["counts"]["items"] or not isinstance(columns, dict) or not columns:
        return False
    return len({name.casefold() for name in columns} | {"id"}) == len(columns) + 1 and all(
        kind in METADATA_TYPES for kind in columns.values()
    )


def _fits(value: Any, expected: Any, allowed: Any) -> bool:
    if expected is float:
        return type(value) in (int, float) and math.isfinite(value) and allowed <= value <= LARGEST
    if type(value) is not expected or (expected is int and value > LARGEST):
        return False
    if isinstance(allowed, re.Pattern):
        return allowed.fullmatch(value) is not None
    if isinstance(allowed, tuple):
        return value in allowed
    return allowed is None or value >= allowed


def _shown(value: Any) -> str:
    """A value in at most a few words."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
