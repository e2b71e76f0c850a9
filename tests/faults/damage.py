"""Every file that a command wrote, damaged in every way: what reads it works as before, or says which file is wrong."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.faults.child import Ended, run
from tests.faults.harness import Case, Harness, refused_badly
from tests.faults.world import OTHER, PBUNDLE, RUN, SHARDS, TWICE, UPDATED, copy, digest, untouched

READERS: dict[str, list[list[str]]] = {  # by what is damaged
    RUN: [
        ["info", RUN],
        ["encode", RUN, "--data", "f.h5", "--out", "out.h5"],
        ["export-index", RUN, "--data", "f.h5", "--out", "out"],
        ["train", "--data", "f.h5", "--out", RUN, "--resume", "--backbone", "features"],
    ],
    "codes.h5": [["info", "codes.h5"], ["export-index", RUN, "--codes", "codes.h5", "--out", "out"]],
    UPDATED: [
        ["info", UPDATED],
        ["verify", UPDATED],
        ["search", UPDATED, "q.npy"],
        ["update", UPDATED, "--data", "f.h5"],
        ["remove", UPDATED, "item-5"],
        ["encode", UPDATED, "--data", "f.h5", "--out", "out.h5"],
        ["export-index", UPDATED, "--codes", UPDATED, "--out", "out"],
        ["merge", UPDATED, OTHER, "--out", "out", "--new-ids"],
        ["split", UPDATED, "--out-dir", "out", "--parts", "2"],
        ["dedup", UPDATED],
    ],
    PBUNDLE: [
        ["add", PBUNDLE, "new.png"],
        ["search", PBUNDLE, "new.png"],
        ["update", PBUNDLE, "--data", "later"],
        ["split", PBUNDLE, "--out-dir", "out", "--by-class"],
        ["dedup", PBUNDLE, "--images", "photos"],
    ],
    SHARDS: [
        ["info", SHARDS],
        ["verify", SHARDS],
        ["search", SHARDS, "q.npy"],
        ["update", SHARDS, "--data", "g.h5"],
        ["remove", SHARDS, "item-5"],
        ["export-index", SHARDS, "--codes", SHARDS, "--out", "out"],
        ["merge", SHARDS, OTHER, "--out", "out", "--new-ids"],
    ],
    TWICE: [["dedup", TWICE, "--remove", "--yes"], ["merge", OTHER, TWICE, "--out", "out", "--new-ids"]],
}  # fmt: skip
GIVEN = {
    RUN: ("f.h5",),
    "codes.h5": (RUN,),
    UPDATED: ("f.h5", "q.npy", OTHER),
    PBUNDLE: ("new.png", "later", "photos"),
    SHARDS: ("g.h5", "q.npy", OTHER),
    TWICE: (OTHER,),
}


def cases(h: Harness) -> Iterator[Case]:
    """Each file of a run, an encoded file and bundles, each damage, each command that reads it."""
    return _cases(h, {damage: (damage, "") for damage in DAMAGE})


def places(h: Harness) -> Iterator[Case]:
    """The same with a bit flipped, or the end cut off, at many places of a file."""
    return _cases(h, {damage: (damage.split(" at ")[0], f", {damage.split(' at ')[1]}") for damage in AT_PLACES})


def _cases(h: Harness, damages: dict[str, tuple[str, str]]) -> Iterator[Case]:
    undisturbed: dict[str, tuple[str, dict[str, str]]] = {}
    for target, commands in READERS.items():
        path = h.world / target
        files = [p.relative_to(h.world) for p in path.rglob("*") if p.is_file()] or [Path(target)]
        for file, damage, arguments in itertools.product(sorted(files), damages, commands):
            check = partial(_damaged, h, undisturbed, target, file, damage, arguments)
            fault, place = damages[damage]
            yield Case(arguments[0], fault, f"{' '.join(arguments)}: {file}{place}", check)


def _damaged(
    h: Harness,
    undisturbed: dict[str, tuple[str, dict[str, str]]],
    target: str,
    file: Path,
    damage: str,
    arguments: list[str],
    place: Path,
) -> str | None:
    told = json.dumps(arguments)
    if told not in undisturbed:
        whole = copy(h.world, place / "whole", (target, *GIVEN[target]))
        ended = run(whole, arguments)
        assert ended.code == 0, ended.err
        undisturbed[told] = _made(ended, whole, arguments, target)
    again = copy(h.world, place / "damaged", (target, *GIVEN[target]))
    (DAMAGE | AT_PLACES)[damage](again / file)
    before = untouched(again, GIVEN[target])
    ended = run(again, arguments)
    if wrong := refused_badly(ended, {file.name, target}):
        return wrong
    if ended.code == 0 and _made(ended, again, arguments, target) != undisturbed[told]:
        return "works, with another result"
    return h.same(again, GIVEN[target], before)


def _made(ended: Ended, place: Path, arguments: list[str], target: str) -> tuple[str, dict[str, str]]:
    """What a command said, where that is a result, and what it made or changed."""
    told = ended.out if arguments[0] in ("search", "dedup") else ""
    changes = arguments[0] in ("update", "add", "remove", "train") or "--remove" in arguments
    made = (target,) if changes else ("out", "out.h5")
    return told, {f"{name} {part}": value for name in made for part, value in digest(place / name).items()}


def _replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


def _flip(share: float) -> Callable[[Path], object]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            content[int(len(content) * share)] ^= 0x10
        path.write_bytes(content)

    return flip


def _cut(share: float) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path: os.truncate(path, max(0, path.stat().st_size - 1)),
    "empty": lambda path: os.truncate(path, 0),
    "a bit flipped": _flip(0.5),
    "a bit flipped at its begin": _flip(0.02),
    "a bit flipped at its end": _flip(0.95),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: _replace(path, path.mkdir),
    "a link to /etc/passwd": lambda path: _replace(path, lambda: path.symlink_to("/etc/passwd")),
    "a link to nothing": lambda path: _replace(path, lambda: path.symlink_to("nothing")),
    "a FIFO": lambda path: _replace(path, lambda: os.mkfifo(path)),
}
AT_PLACES: dict[str, Callable[[Path], object]] = {
    **{f"a bit flipped, 14 places at {share} %": _flip(share / 100) for share in range(3, 100, 7)},
    **{f"cut off, 6 places at {share} %": _cut(share / 100) for share in (1, 10, 25, 40, 75, 98)},
}
