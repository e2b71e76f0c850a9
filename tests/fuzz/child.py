"""One target in a process of its own: atheris calls the reader, guided by the coverage of what it reads with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import mmap
import os
import random
import struct
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and FAISS start
import atheris

from tests.fuzz.harness import COUNTED, Outcome, judge, limit_memory

INSTRUMENTED = ["mecoq_faiss", "mecoq_faiss_cli", "zipfile", "tarfile", "tomllib", "pickle", "numpy.lib", "PIL", "h5py"]
warnings.simplefilter("ignore")
logging.getLogger("mecoq_faiss").setLevel(logging.ERROR)


class Tally:
    """Counts in a file that outlives the process, and what was found beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with open(folder / "counts", "ab+") as file:
            file.truncate(8 * len(COUNTED))
            self._counts = mmap.mmap(file.fileno(), 8 * len(COUNTED))
        self._seen: set[str] = set()

    def add(self, name: str) -> None:
        """One more."""
        place = 8 * COUNTED.index(name)
        struct.pack_into("<q", self._counts, place, struct.unpack_from("<q", self._counts, place)[0] + 1)

    def outcome(self, data: bytes, outcome: Outcome) -> None:
        """Count what became of an input; the first bad one of a place is kept."""
        self.add(outcome.kind)
        if outcome.kind != "bad" or outcome.place in self._seen:
            return
        self._seen.add(outcome.place)
        name = "bad-" + hashlib.sha256(data).hexdigest()[:16]
        (self.folder / name).write_bytes(data)
        (self.folder / f"{name}.json").write_text(json.dumps({"place": outcome.place, "said": outcome.said}))


def main() -> None:
    """Fuzz until the runs or the seconds are over; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("folder", type=Path, help="counts, findings and the corpus")
    parser.add_argument("options", nargs="*", help="of libFuzzer")
    given = parser.parse_args()
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS

        target = TARGETS[given.target]
        reader = target.reader(Path(tempfile.mkdtemp(dir=given.folder)))
        for seed in target.seeds():  # what it reads with is imported now
            judge(reader, seed)
    tally = Tally(given.folder)

    def test(data: bytes) -> None:
        tally.add("executed")
        with contextlib.redirect_stdout(None):
            tally.outcome(data, judge(reader, data))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        def plain(part: bytes) -> bytes:
            return atheris.Mutate(part, max(1, len(part) + 64))

        return target.mutate(data, random.Random(seed), plain)[:max_size]

    atheris.Setup([sys.argv[0], *given.options], test, custom_mutator=mutate)
    limit_memory()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
