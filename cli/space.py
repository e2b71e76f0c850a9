"""check_address_space(): where the address space is limited, whether PyTorch and FAISS can be loaded into it."""

from __future__ import annotations

import os
import sys


def check_address_space() -> None:
    """RuntimeError, with the mend, where a limit (ulimit -v) leaves no room for the libraries; without one, nothing.

    In too little room OpenBLAS ends the process as it is loaded, and others are said to be missing or broken. So they
    are loaded in another process first; this costs seconds, only under a limit.
    """
    if os.name != "posix" or "torch" in sys.modules:
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    pid = os.fork()
    if pid == 0:
        _try_to_load()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"PyTorch and FAISS do not fit into {limit >> 20} MiB of address space: raise ulimit -v")


def _try_to_load() -> None:
    """End this process, with 0 where the libraries load or are not there at all."""
    import resource

    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for handle in (1, 2):
            os.dup2(nowhere, handle)
        import faiss  # noqa: F401
        import torch  # noqa: F401

        code = 0
    except ModuleNotFoundError:
        code = 0  # said by whoever needs it
    finally:
        os._exit(code)
