"""Every reader on what fuzzers found before, and on some hundred blind alterations of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.bounded import bounded
from tests.fuzz.corpus import corpus_of
from tests.fuzz.harness import blind, judge
from tests.fuzz.targets import TARGETS

TIMES = 60


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rng = TARGETS[name], random.Random(0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # some set it, which is undone with this
    monkeypatch.chdir(tmp_path)  # and back: a command line's target goes into its own folder
    reader, known = target.reader(tmp_path), corpus_of(target)
    altered = [target.mutate(rng.choice(known), rng, blind(rng)) for _ in range(TIMES)]
    with bounded():
        outcomes = [judge(reader, data) for data in [*known, *altered]]
    bad = [outcome for outcome in outcomes if outcome.kind == "bad"]
    assert not bad, bad[0].said
    assert any(outcome.kind == "returned" for outcome in outcomes[: len(target.seeds())]) or name in ("split", "cifar")
