"""keep_freed_memory(): the command's own process keeps what it frees, for the next layer of a network on the CPU."""

from __future__ import annotations

import ctypes
import os
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt
SINCE = (2, 35)  # older ones refuse so large a threshold and lose their own, growing one
KEPT = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory() -> bool:
    """True where the C library is a glibc that takes the thresholds; elsewhere nothing changes.

    glibc maps large blocks anew and gives them back when they are free, so that each layer waits for the system to
    clear pages: a MobileNet at 96 px ran 1.3 times as fast without that, on one thread and on two. It is a setting of
    the whole process, hence of the command line only, never of a program that imports the library.
    """
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < SINCE:
            return False
        libc: Any = ctypes.CDLL(None)
        return all(libc.mallopt(option, value) == 1 for option, value in KEPT.items())
    except (AttributeError, OSError, ValueError):
        return False  # another C library, or none that says what it is
