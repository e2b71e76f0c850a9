"""Manifests that lack something, or say it wrongly, are refused in one line; those of every version pass."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss import load_encoder
from mecoq_faiss.bundle.folder import MOST_BYTES, pinned, read_manifest
from mecoq_faiss.bundle.schema import OPTIONAL, REQUIRED, check_manifest
from mecoq_faiss.jobs.info import describe
from tests.bounded import refusal
from tests.bundle.hostile import OLD, altered_manifest, jobs, old_bundle

SHA = "0" * 64


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle(tmp_path)


def manifest(kind: str = "pq") -> dict[str, Any]:
    return json.loads((OLD / f"bundle-{kind}" / "manifest.json").read_text())


def changed(name: str, value: object) -> dict[str, Any]:
    """A manifest with another value of a part, `a.b` for one of a part; of `...` without it."""
    content = holder = manifest()
    *outer, last = name.split("/")
    for part in outer:
        holder = holder[part]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return content


def test_what_version_0_1_wrote_passes() -> None:
    for kind in ("pq", "pqfs", "ivfpq"):
        check_manifest(manifest(kind), "bundle")
        assert read_manifest(OLD / f"bundle-{kind}") == manifest(kind)


def test_parts_of_later_versions_pass() -> None:
    content = manifest() | {"more": [1, {"a": None}], "counts": {"items": 60, "more": "x"}}
    content["files"]["more.bin"] = {"bytes": 2**40, "sha256": SHA, "more": 1}
    before = copy.deepcopy(content)
    check_manifest(content, "bundle")
    assert content == before


def test_what_is_optional_may_be_missing() -> None:
    content = manifest()
    for name in OPTIONAL:
        *outer, last = name.split(".")
        (content[outer[0]] if outer else content).pop(last, None)
    check_manifest(content, "bundle")
    assert set(content) == {"format", *(name for name in REQUIRED if "." not in name)}


LONG = 10**3000
CASES: list[tuple[str, object, str]] = [
    *((name.replace(".", "/"), ..., f"(no {name})") for name in REQUIRED if name != "files"),
    ("kind", "flat", "(kind is 'flat')"),
    ("kind", ["pq"], "(kind is a list)"),
    ("kind", None, "(kind is None)"),
    ("M", "2", "(M is '2')"),
    ("M", 0, "(M is 0)"),
    ("M", -2, "(M is -2)"),
    ("M", 2.0, "(M is 2.0)"),
    ("M", True, "(M is True)"),
    ("M", LONG, "(M is a huge number)"),
    ("M", 3, "(d=8, M=3, nbits=4 and its bytes_per_code do not fit each other)"),
    ("M", 4, "(d=8, M=4, nbits=4 and its bytes_per_code do not fit each other)"),
    ("nbits", 5, "(nbits is 5)"),
    ("nbits", 8, "(d=8, M=2, nbits=8 and its bytes_per_code do not fit each other)"),
    ("d", 7, "(d=7, M=2, nbits=4 and its bytes_per_code do not fit each other)"),
    ("d", {}, "(d is a dict)"),
    ("bytes_per_code", "1", "(bytes_per_code is '1')"),
    ("metric", "l2", "(metric is 'l2')"),
    ("nlist", 0, "(nlist is 0)"),
    ("nprobe", "all", "(nprobe is 'all')"),
    ("refine", 0.5, "(refine is 0.5)"),
    ("refine", 1e300, "(refine is 1e+300)"),
    ("has_ids", 1, "(has_ids is 1)"),
    ("kind", "x\ny" * 50, "(kind is 'x\\nyx"),
    ("source", 3, "(source is 3)"),
    ("versions", [], "(versions is a list)"),
    ("preprocessing", None, "(preprocessing is None)"),
    ("counts", [60], "(counts is a list)"),
    ("counts/items", 0, "(counts.items is 0)"),
    ("counts/items", "60", "(counts.items is '60')"),
    ("counts/items", 2**63, "(counts.items is a huge number)"),
    ("counts/unreadable", -1, "(counts.unreadable is -1)"),
    ("files/items.h5", None, "(the bytes of 'items.h5' are not there or wrong)"),
    ("files/items.h5", [1, SHA], "(the bytes of 'items.h5' are not there or wrong)"),
    ("files/items.h5", {"bytes": 7704}, "(the sha256 of 'items.h5' are not there or wrong)"),
    ("files/items.h5/bytes", -1, "(the bytes of 'items.h5' are not there or wrong)"),
    ("files/items.h5/bytes", "7704", "(the bytes of 'items.h5' are not there or wrong)"),
    ("files/items.h5/sha256", SHA[:-1], "(the sha256 of 'items.h5' are not there or wrong)"),
    ("files/items.h5/sha256", SHA + "\n", "(the sha256 of 'items.h5' are not there or wrong)"),
    ("files/items.h5/sha256", 0, "(the sha256 of 'items.h5' are not there or wrong)"),
]


@pytest.mark.parametrize(("name", "value", "says"), CASES)
def test_wrong_parts(bundle: Path, name: str, value: object, says: str) -> None:
    (bundle / "manifest.json").write_text(json.dumps(changed(name, value)))
    for call in (lambda: read_manifest(bundle), lambda: describe(bundle), lambda: load_encoder(bundle)):
        message = refusal(call, f"{bundle / 'manifest.json'} is damaged {says}")
        assert message.endswith(": export the bundle again")


TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "nested lists": b"[" * 200_000,
    "nested in a part": b'{"format": 1, "files": {}, "more": ' + b'{"a":' * 100_000,
    "NaN": json.dumps({**manifest(), "refine": float("nan")}).encode(),
    "infinity": json.dumps({**manifest(), "refine": float("inf")}).encode(),
    "a number of 5,000 digits": b'{"format": 1, "files": {}, "M": ' + b"9" * 5000 + b"}",
    "too large": b" " * MOST_BYTES + json.dumps(manifest()).encode(),
    "format of text": json.dumps({**manifest(), "format": "1"}).encode(),
    "format 0": json.dumps({**manifest(), "format": 0}).encode(),
    "format true": json.dumps({**manifest(), "format": True}).encode(),
    "files a list": json.dumps({**manifest(), "files": []}).encode(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_are_no_manifest(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_bytes(TEXTS[text])
    for call in (lambda: read_manifest(bundle), jobs(bundle)["search"]):
        assert refusal(call, f"{bundle / 'manifest.json'} is damaged (").endswith(": export the bundle again")


def test_a_manifest_of_gigabytes_is_not_read(bundle: Path) -> None:
    with open(bundle / "manifest.json", "r+b") as file:
        file.truncate(1 << 34)  # a hole
    refusal(lambda: read_manifest(bundle), f"manifest.json is damaged (larger than {MOST_BYTES:,} bytes)")


def test_a_newer_format_says_so_whatever_else_it_holds(bundle: Path) -> None:
    for version in (6, 10**3000):
        (bundle / "manifest.json").write_text(json.dumps({"format": version, "files": {}}))
        assert refusal(lambda: read_manifest(bundle), str(bundle)).endswith("this one reads 5): upgrade")


def test_files_that_the_manifest_does_not_name(bundle: Path) -> None:
    with altered_manifest(bundle) as content:
        del content["files"]["index.faiss"]
    with pinned(bundle, ("items.h5",)) as files:
        files.file("items.h5")
    for name in ("search", "evaluate"):
        refusal(jobs(bundle)[name], f"{bundle} lacks index.faiss")
