"""Decoding processes that are killed, one by one, and commands that are killed beside them."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator
from functools import partial

from tests.faults.breaking import Break
from tests.faults.harness import Case, Harness
from tests.faults.world import WORKERS

ITEMS = (1, 5, 13)  # of a worker, at which it ends
RANDOM_TIMES = 6


def cases(h: Harness) -> Iterator[Case]:
    """A worker killed at one of its items or at a random time; the command itself at its events, the workers alive."""
    for name, number, item in itertools.product(WORKERS, (0, 1), ITEMS):
        for by in (signal.SIGKILL, signal.SIGTERM)[: 2 if item == 1 else 1]:
            what = Break(by=by, worker=(number, item, by))
            fault = f"a decoding process, {by.name}"
            yield Case(name, fault, f"process {number}, item {item}", partial(h.broken, name, what))
    for name, i in itertools.product(WORKERS, range(RANDOM_TIMES)):
        share = random.Random(f"{name} {i}").random()
        what = Break(by=signal.SIGKILL, after=share * h.truths[name].seconds, group="children")
        fault = "a decoding process, random times"
        yield Case(name, fault, f"{share:.3f} of it", partial(h.broken, name, what), timed=True)
    for name in WORKERS:
        for by, at in itertools.product((signal.SIGKILL, signal.SIGTERM), range(1, h.truths[name].events + 1, 3)):
            yield Case(name, by.name, f"event {at}", partial(h.broken, name, Break(at=at, by=by)))
