"""What Ray prints of its own: nothing while it starts, and later a line of the log, once of each kind."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

logger = logging.getLogger("mecoq_faiss")
COLOR = r"(?:\x1b\[\d+m)*"
OWN = re.compile(rf"{COLOR}\((?:raylet|autoscaler|scheduler)[^)]*\){COLOR} *(.*)", re.DOTALL)
KIND, SHOWN = 30, 160  # letters of a message by which it is known again, and that are told


@contextmanager
def silent() -> Iterator[None]:
    """Nothing comes to stderr, not even from C++: Ray says there that it was told to say less."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def brief() -> Iterator[None]:
    """What Ray has printed on stdout, a killed worker for example, is logged in short; else stdout is as it was."""
    with redirect_stdout(_Without(sys.stdout)):
        yield


class _Without(io.TextIOBase):
    """A stream without Ray's messages."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: set[str] = set()
        self._dropped = False  # the message before, whose end of line is still to come

    def write(self, text: str) -> int:
        found = OWN.match(text)
        if found is None and not (self._dropped and text == "\n"):
            self._stream.write(text)
        elif found is not None and found[1][:KIND] not in self._told:
            self._told.add(found[1][:KIND])
            logger.info("Ray: %s", " ".join(found[1].split())[:SHOWN])
        self._dropped = found is not None and not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding
