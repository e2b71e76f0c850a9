"""What a reader may do with any bytes: return, or raise ValueError or OSError in one line, in bounded memory."""

from __future__ import annotations

import random
import resource
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.mutators import Mutator, plain_only

SECONDS = 20  # of one execution
ROOM = 1 << 30  # address space beyond what is in use at the start
GROWTH = 1 << 29  # bytes of memory beyond that, of one execution
COUNTED = ("executed", "returned", "refused", "bad")
LONGEST = 1000  # characters of an error
Reader = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: its name.
        reader: makes the reader in a folder of its own.
        seeds: small valid inputs.
        runs: executions of a whole campaign; fewer where one takes long.
        mutate: how inputs are altered.
        max_bytes: no input is longer.
    """

    name: str
    reader: Callable[[Path], Reader]
    seeds: Callable[[], list[bytes]]
    runs: int
    mutate: Mutator = plain_only
    max_bytes: int = 1 << 14


class Outcome(NamedTuple):
    """What became of one input: `kind` is returned, refused or bad; `place` tells outcomes of one kind apart."""

    kind: str
    place: str
    said: str = ""


def judge(reader: Reader, data: bytes) -> Outcome:
    """Read, and say whether what came of it is allowed."""
    before = peak()
    try:
        reader(data)
        kind, place, said = "returned", "", ""
    except (ValueError, OSError) as error:
        said = str(error)
        one_line = len(said.splitlines()) <= 1 and len(said) <= LONGEST
        kind, place = "refused" if one_line else "bad", _place(error)
    except Exception as error:
        kind, place, said = "bad", _place(error), "".join(traceback.format_exception(error))
    if peak() - before > GROWTH:
        kind, said = "bad", f"took {(peak() - before) >> 20} MB; {said}"
    return Outcome(kind, place, said)


def peak() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory() -> None:
    """From now on no more than `ROOM` is to be had."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def blind(rng: random.Random) -> Callable[[bytes], bytes]:
    """A mutation of plain bytes without a fuzzer: some bytes exchanged, doubled or cut out."""

    def plain(data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
            place, way = rng.randrange(len(out) + 1), rng.random()
            if way < 0.6 and place < len(out):
                out[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256), out[place] ^ (1 << rng.randrange(8))])
            elif way < 0.8:
                out[place:place] = out[place : place + rng.randrange(1, 9)] or b"\xff"
            else:
                del out[place : place + rng.randrange(1, 9)]
        return bytes(out)

    return plain


def _place(error: BaseException) -> str:
    """The error's type, and the last line of this package that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/mecoq_faiss" in frame.filename or "/cli/" in frame.filename] or frames
    name = Path(own[-1].filename)
    return f"{type(error).__name__} at {name.parent.name}/{name.name}:{own[-1].lineno}"
