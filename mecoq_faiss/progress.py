"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_SECONDS = 20.0
logger = logging.getLogger("mecoq_faiss")


def progress(items: Iterable[T], *, total: int, label: str, unit: str = "it", initial: int = 0) -> Iterator[T]:
    """Yield from `items` while showing how many of `total` are done; the bar goes to stderr."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=unit, initial=initial, file=sys.stderr, dynamic_ncols=True)
        return
    started = logged = time.monotonic()
    for done, item in enumerate(items, start=initial + 1):
        yield item
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged = now
            rate = (done - initial) / (now - started)
            logger.info("%s: %d of %d %s, %.0f s left", label, done, total, unit, (total - done) / rate)
