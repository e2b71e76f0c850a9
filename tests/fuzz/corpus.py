"""Small corpora: of the inputs that a fuzzer kept, one for each way in which a reader ends."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tests.fuzz.harness import Target, judge

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES, MOST_FILES = 2048, 16  # of one input, of a target


def corpus_of(target: Target) -> list[bytes]:
    """The seeds, and what is kept."""
    return [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / target.name).glob("*")))]


def seed_into(folder: Path, target: Target) -> None:
    """Write them where a fuzzer starts from."""
    for data in corpus_of(target):
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def distil(target: Target, folder: Path) -> None:
    """Keep of what a fuzzer left in a folder the smallest input of each outcome, and each bad one."""
    smallest: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        reader = target.reader(Path(place))
        found = [path for path in (folder / "corpus").iterdir() if path.stat().st_size <= MOST_BYTES]
        for path in sorted(found, key=lambda path: (path.stat().st_size, path.name)):
            data = path.read_bytes()
            smallest.setdefault(judge(reader, data).place, data)
    bad = [path.read_bytes() for path in sorted(folder.glob("bad-*")) if path.suffix != ".json"]
    seeds = set(target.seeds())
    kept = [data for data in [*bad, *smallest.values()] if data not in seeds and len(data) <= MOST_BYTES]
    (CORPUS / target.name).mkdir(parents=True, exist_ok=True)
    for data in kept[:MOST_FILES]:
        (CORPUS / target.name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
