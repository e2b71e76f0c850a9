"""wait_passively(): threads of the command's own process sleep while they wait for one another."""

from __future__ import annotations

import os
import sys


def wait_passively() -> None:
    """Set OpenMP's wait policy, unless the user has, or torch has read it already.

    OpenMP's threads spin at the end of every parallel loop. Where another program wants the cores, they take them from
    their own fellows that are not through: with two busy programs on two cores, an epoch of training took five times as
    long on two threads as with threads that sleep. Results are the same to the bit. It is a setting of the whole
    process, hence of the command line only, never of a program that imports the library.
    """
    if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
