"""Several at once on the same files: two writers, and readers while a bundle is replaced a thousand times."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.child import LIMIT, Ended, run, start, wait
from tests.faults.harness import Case, Harness, refused_badly, said
from tests.faults.world import BUNDLE, COMMANDS, PBUNDLE, RUN, copy, digest, listing, untouched

DELAYS = (0, 10, 30, 60, 90, 120, 160, 200)  # ms between the starts of two
REPLACEMENTS, READERS, ROUNDS = 50, 3, 20  # of a case; 1,000 in all
ADD, ADD_OTHER = ["add", PBUNDLE, "new.png"], ["add", PBUNDLE, "new1.png"]
REMOVE, REMOVE_OTHER = ["remove", PBUNDLE, "a/000.png"], ["remove", PBUNDLE, "b/003.png"]
UPDATE = ["update", PBUNDLE, "--data", "later"]
PAIRS = {  # two changes of a bundle that give the same items in either order
    "add and add": (ADD, ADD_OTHER),
    "add and remove": (ADD, REMOVE),
    "remove and remove": (REMOVE, REMOVE_OTHER),
    "update and itself compacted": (UPDATE, [*UPDATE, "--compact"]),
}
PNEEDS = ("new.png", "new1.png", "later", PBUNDLE)
RIVALS = {  # two commands for one new name: one of them makes it
    "encode and encode": (["encode", RUN, "--data", "f.h5", "--out"], ["encode", RUN, "--data", "g.h5", "--out"]),
    "export and export": (
        ["export-index", RUN, "--data", "f.h5", "--out"],
        ["export-index", RUN, "--data", "g.h5", "--out"],
    ),
    "merge and export": (["merge", *("halves/part-1", "halves/part-2"), "--out"],
                         ["export-index", RUN, "--data", "g.h5", "--out"]),
}  # fmt: skip
RNEEDS = (RUN, "f.h5", "g.h5", "halves")
GONE = ("has no item",)  # what a second removal rightly says


def cases(h: Harness) -> Iterator[Case]:
    """Two of a command, two commands on a bundle, two for one name; readers meanwhile."""
    for name, ms in itertools.product(COMMANDS, DELAYS):
        yield Case(name, "two at once", f"{ms} ms apart", partial(_two, h, name, ms / 1000), timed=True)
    for name, ms in itertools.product(PAIRS, DELAYS):
        yield Case(name, "two at once", f"{ms} ms apart", partial(_changes, h, name, ms / 1000), timed=True)
    for name, ms in itertools.product(RIVALS, DELAYS):
        yield Case(name, "two at once", f"{ms} ms apart", partial(_rivals, h, name, ms / 1000), timed=True)
    for i in range(ROUNDS):
        fault = f"{READERS} readers of {REPLACEMENTS} replacements"
        yield Case("update", fault, f"round {i}", partial(_readers, h), timed=True)


def _both(place: Path, one: list[str], other: list[str], apart: float) -> list[Ended]:
    children = [start(place, one)]
    time.sleep(apart)
    children.append(start(place, other))
    return [wait(child) for child in children]


def _two(h: Harness, name: str, apart: float, place: Path) -> str | None:
    """Each works or is refused, and the repeat finds all as it should be."""
    this = COMMANDS[name]
    before = h.begin(name, place)
    ends = _both(place, this.arguments, this.arguments, apart)
    for ended in ends:
        if wrong := refused_badly(ended, {this.result, "a/000.png"}):
            return wrong
    if all(ended.code for ended in ends):
        return f"both were refused: {said(ends[0])} / {said(ends[1])}"
    return h.repeat(name, place, before)


def _changes(h: Harness, name: str, apart: float, place: Path) -> str | None:
    """Both changes of a bundle land, where one was refused when it is called again; the bundle is whole."""
    pair = PAIRS[name]
    wanted = copy(h.world, place / "in turn", PNEEDS)
    for arguments in pair:
        if (ended := run(wanted, arguments)).code != 0:
            return f"in turn: {said(ended)}"
    here = copy(h.world, place / "at once", PNEEDS)
    before = untouched(here, PNEEDS[:-1])
    ends = _both(here, *pair, apart)
    for arguments, ended in zip(pair, ends, strict=True):
        if wrong := refused_badly(ended, {PBUNDLE}):
            return wrong
        if ended.code and (again := run(here, arguments)).code != 0:
            return f"repeated: {said(again)}"
    if (ended := run(here, ["verify", PBUNDLE])).code != 0:
        return f"verify: {said(ended)}"
    if (found := run(here, _print_paths).out) != run(wanted, _print_paths).out or not found:
        return "other items than of one after the other"
    extra = {Path(name).parts[0] for name in listing(here)} ^ {Path(name).parts[0] for name in listing(wanted)}
    return f"left or missing: {sorted(extra)}" if extra else h.same(here, PNEEDS[:-1], before)


def _rivals(h: Harness, name: str, apart: float, place: Path) -> str | None:
    """One makes the file or folder, whole, and the other says so."""
    pair = RIVALS[name]
    made = []
    for i, arguments in enumerate(pair):
        alone = copy(h.world, place / f"alone-{i}", RNEEDS)
        run(alone, [*arguments, "out"])
        made.append((digest(alone / "out"), listing(alone)))
    here = copy(h.world, place / "at once", RNEEDS)
    before = untouched(here, RNEEDS)
    one, other = ([*arguments, "out"] for arguments in pair)
    ends = _both(here, one, other, apart)
    for ended in ends:
        if wrong := refused_badly(ended, {"out"}):
            return wrong
    if all(ended.code for ended in ends):
        return f"both were refused: {said(ends[0])} / {said(ends[1])}"
    if not any((digest(here / "out"), listing(here)) == (content, names) for content, names in made):
        return "neither's result, or something beside it"
    return h.same(here, RNEEDS, before)


def _print_paths() -> None:
    from mecoq_faiss import open_bundle

    with open_bundle(PBUNDLE) as opened:
        sys.stdout.write(json.dumps(sorted(opened.paths(range(len(opened))))))


def _readers(h: Harness, place: Path) -> str | None:
    """Processes search and reload while a bundle is replaced: every answer is that of one generation, whole."""
    copy(h.world, place, ("f.h5", "g.h5", "q.npy", BUNDLE))
    answers = []
    for data in ("g.h5", "f.h5"):
        run(place, ["update", BUNDLE, "--data", data])
        answers.append(json.loads(run(place, _print_answer).out))
    (place / "answers.json").write_text(json.dumps(answers))
    children = [start(place, _read_until_stopped) for _ in range(READERS)]
    started = time.monotonic()
    ended = wait(start(place, _replace), LIMIT * 10)
    (place / "stop").touch()
    reads = [wait(child, LIMIT + time.monotonic() - started) for child in children]
    if ended.code != 0:
        return f"update: {said(ended)}"
    for read in reads:
        if read.code != 0 or read.left:
            return f"reader: {said(read)}"
        if min(json.loads(read.out)) < 1:
            return f"a reader saw no more than one generation: {read.out}"
    return None


def _replace() -> None:
    from mecoq_faiss import update

    for i in range(REPLACEMENTS):
        update(BUNDLE, ("g.h5", "f.h5")[i % 2])


Answer = list[list[tuple[float, str]]]


def _answer(opened: object) -> Answer:
    """Of each query all items, best first, those of one score by their paths; ids are checked."""
    hits = opened.search(["q.npy"], len(opened))  # type: ignore[attr-defined,arg-type]
    ids = [{hit.path: hit.id for hit in row} for row in hits]
    assert ids[0] == ids[1] and len(set(ids[0].values())) == len(ids[0])
    return [[list(pair) for pair in sorted((-hit.score, hit.path) for hit in row)] for row in hits]  # type: ignore[misc]


def _print_answer() -> None:
    from mecoq_faiss import open_bundle

    with open_bundle(BUNDLE) as opened:
        sys.stdout.write(json.dumps(_answer(opened)))


def _read_until_stopped() -> None:
    from mecoq_faiss import open_bundle

    allowed = json.loads(Path("answers.json").read_text())
    seen = [0] * len(allowed)
    with open_bundle(BUNDLE) as opened:
        while not Path("stop").exists():
            before = len(opened)
            assert len(_answer(opened)[0]) == before, "the open generation changed by itself"
            opened.reload()
            with open_bundle(BUNDLE) as fresh:
                for bundle in (opened, fresh):
                    seen[allowed.index(_answer(bundle))] += 1  # ValueError where it is neither's
            time.sleep(0.02)
    sys.stdout.write(json.dumps(seen))
