"""Progress of long work: a bar on a terminal, a log line now and then elsewhere; and, said once, how long it takes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

T = TypeVar("T")
LOG_SECONDS = 20.0
ESTIMATE_SECONDS = 2.0  # of work, after its first piece, from which its rate is told
logger = logging.getLogger("mecoq_faiss")


def progress(
    items: Iterable[T],
    *,
    total: int,
    label: str,
    unit: str = "it",
    initial: int = 0,
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield from `items` while showing how many of `total` are done; the bar goes to stderr.

    `note()` is asked after each item for a few words to be shown beside.
    """
    if sys.stderr.isatty():
        bar = tqdm(total=total, desc=label, unit=unit, initial=initial, file=sys.stderr, dynamic_ncols=True)
        with bar, logging_redirect_tqdm([logger]) if logger.handlers else nullcontext():  # lines go above the bar
            for item in items:
                yield item
                if note:
                    bar.set_postfix_str(note(), refresh=False)
                bar.update()
        return
    started = logged = time.monotonic()
    for done, item in enumerate(items, start=initial + 1):
        yield item
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged = now
            rate = (done - initial) / (now - started)
            more = f"; {text}" if note and (text := note()) else ""
            logger.info("%s: %d of %d %s, %.0f s left%s", label, done, total, unit, (total - done) / rate, more)


class Estimate:
    """Says once, as soon as the rate can be told, how long work will take.

    Args:
        views: how many there are to do.
        what: the work, said first.
        change: what changes it, said last.
    """

    def __init__(self, views: int, what: str, change: str) -> None:
        self.left, self.what, self.change = views, what, change
        self._measured, self._since, self._said = 0, 0.0, False

    def done(self, views: int) -> None:
        """So many more are done. The first time counts for nothing: processes start, and networks are slow at first."""
        self.left -= views
        if not self._since:
            self._since = time.monotonic()
            return
        self._measured += views
        seconds = time.monotonic() - self._since
        if not self._said and seconds >= ESTIMATE_SECONDS:
            self._said = True
            rate = self._measured / seconds
            logger.info(
                "%s, %.3g a second: about %s to go; %s", self.what, rate, duration(self.left / rate), self.change
            )


def duration(seconds: float) -> str:
    """50 s, 12 min, 2 h 46 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
