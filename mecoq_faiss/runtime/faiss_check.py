"""check_faiss(): one line, with its mend, where this environment has no working FAISS; and which wheels it has."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module, metadata

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")


def installed_wheels() -> dict[str, str]:
    """FAISS wheels of this environment, name -> version (empty for a conda or source build)."""
    found = {}
    for name in WHEELS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def shared_environment() -> str | None:
    """What to know where several wheels share one environment, and the mend, in one line; None for one or none.

    They overwrite each other's files (faiss issue #2892); packages such as autofaiss bring faiss-cpu. Often FAISS works
    all the same, and only the GPU's symbols are hidden.
    """
    wheels = installed_wheels()
    if len(wheels) < 2:
        return None
    faiss = import_module("faiss")
    of_gpu = any(name.startswith("faiss-gpu") for name in wheels)
    hidden = ", and the GPU's symbols are hidden" if of_gpu and not hasattr(faiss, "StandardGpuResources") else ""
    return f"two FAISS wheels in one environment ({_named(wheels)}) overwrite each other{hidden}: {_keep_one(wheels)}"


def check_faiss() -> None:
    """Return where a working FAISS imports; a UserWarning of one line where two wheels share the environment.

    Raises:
        ImportError: FAISS is missing or broken; in one line, with the mend.
    """
    wheels = installed_wheels()
    mend = f"run `pip install --force-reinstall --no-deps {next(iter(wheels), 'faiss-cpu')}`"
    if len(wheels) > 1:
        mend = f"two wheels overwrite each other ({_named(wheels)}), {_keep_one(wheels)}"
    try:
        faiss = import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name == "faiss":
            mend = mend if wheels else "run `pip install faiss-cpu` (or faiss-gpu for CUDA)"
            raise ImportError(f"FAISS is missing: {mend}") from error
        if not str(error.name).startswith("faiss."):
            raise ImportError(f"FAISS needs {error.name}, which is missing: run `pip install {error.name}`") from error
        raise ImportError(f"FAISS is only partly installed ({error}): {mend}") from error
    except Exception as error:  # files of two versions side by side fail with an AttributeError, for one
        raise ImportError(f"FAISS is installed but does not import ({_first_line(error)}): {mend}") from error
    if not hasattr(faiss, "IndexPQ"):  # an uninstall of the second wheel leaves an empty package behind
        raise ImportError(f"FAISS is only partly installed: {mend}")
    if problem := shared_environment():
        _warn(problem)


@cache  # once a process: importing torch makes Python forget which warnings it has shown
def _warn(problem: str) -> None:
    warnings.warn(problem, stacklevel=1)


def _named(wheels: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in wheels.items())


def _keep_one(wheels: dict[str, str]) -> str:
    return f"run `pip uninstall -y {' '.join(wheels)}`, then `pip install` the one you want"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def simd_level() -> str:
    """The instruction set that FAISS's kernels run with here, such as AVX2; it belongs beside every timing."""
    faiss = import_module("faiss")
    if hasattr(faiss, "SIMDConfig"):
        return str(faiss.SIMDConfig.get_level_name())
    return str(faiss.get_compile_options()).strip()
