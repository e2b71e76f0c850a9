"""deliver_again(): a Ctrl-C that comes while an object is deleted still ends the command."""

from __future__ import annotations

import signal
import sys
import threading
from _thread import interrupt_main
from typing import Any

LATER = 0.01  # seconds: the hook itself must be through, or it would take the second one


def deliver_again() -> None:
    """From now on send SIGINT once more where Python ignores the first.

    Python raises KeyboardInterrupt wherever it is, and ignores what is raised in `__del__` or when a weak reference
    dies. It is a setting of the whole process, hence of the command line only.
    """
    sys.unraisablehook = _hook


def _hook(ignored: Any) -> None:
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    timer = threading.Timer(LATER, _interrupt)
    timer.daemon = True
    timer.start()


def _interrupt() -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGINT)  # wakes it where it waits
    else:
        interrupt_main()
