"""What a worker of a Ray says of a piece of work: its result and warnings, or its error, told again by the command."""

from __future__ import annotations

import builtins
import logging
import socket
import traceback
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("mecoq_faiss")


def report(work: Callable[[], Any], host: str) -> dict[str, Any]:
    """Do it here; `host` is that of the command, which need not be told of itself."""
    warnings = _Kept()
    try:
        return {"result": work(), "warnings": warnings.texts}
    except Exception as error:  # anything: else Ray would tell it in its own way
        known = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        here = socket.gethostname()
        text = str(error) if here == host else f"{error} (on {here})"
        return {"error": known, "text": text, "where": traceback.format_exc(), "warnings": warnings.texts}
    finally:
        warnings.close()


def result_of(said: dict[str, Any]) -> Any:
    """What the work gave; its warnings are logged here, its error is raised here."""
    for warning in said["warnings"]:
        logger.warning("%s", warning)
    if "error" in said:
        error = getattr(builtins, said["error"])(said["text"])
        error.add_note(said["where"])
        raise error
    return said["result"]


class _Kept(logging.Handler):
    """Keeps the warnings of this package, until it is closed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def close(self) -> None:
        logger.removeHandler(self)
        super().close()
