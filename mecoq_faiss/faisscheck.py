"""Is there a working FAISS in this environment? Said in one line, with its mend, before anything else fails."""

from __future__ import annotations

import warnings
from importlib import import_module, metadata

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
_said: set[str] = set()  # Python's own memory of warnings shown is forgotten whenever somebody changes the filters


def installed_wheels() -> dict[str, str]:
    """FAISS wheels of this environment, name -> version (empty for a conda or source build)."""
    found = {}
    for name in WHEELS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def two_wheels() -> str | None:
    """What two FAISS wheels in one environment do to each other, and the mend; None with one or none."""
    wheels = installed_wheels()
    if len(wheels) < 2:
        return None
    return (
        f"{len(wheels)} FAISS wheels share this environment and overwrite each other's files, which may hide the GPU's "
        f"symbols ({', '.join(f'{name} {version}' for name, version in wheels.items())}): {_mend(wheels)}"
    )


def check_faiss() -> None:
    """Return where a FAISS imports that works; warn where a second wheel may hide a part of it (faiss issue #2892).

    Raises:
        ImportError: FAISS is missing or broken.
    """
    mend = _mend(installed_wheels())
    try:
        faiss = import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise ImportError(f"FAISS needs {error.name}, which is missing: run `pip install {error.name}`") from error
        raise ImportError("FAISS is missing: run `pip install faiss-cpu` (or faiss-gpu for CUDA)") from error
    except ImportError as error:
        raise ImportError(f"FAISS is installed but does not import ({error}): {mend}") from error
    if not hasattr(faiss, "IndexPQ"):  # an uninstall of the second wheel leaves an empty package behind
        raise ImportError(f"FAISS is only partly installed: {mend}")
    problem = two_wheels()
    if problem and problem not in _said:
        _said.add(problem)
        warnings.warn(problem, RuntimeWarning, stacklevel=2)


def _mend(wheels: dict[str, str]) -> str:
    if len(wheels) > 1:
        return f"run `pip uninstall -y {' '.join(wheels)}`, then `pip install` the one you want"
    return f"run `pip install --force-reinstall --no-deps {next(iter(wheels), 'faiss-cpu')}`"


def simd_level() -> str:
    """The instruction set that FAISS's kernels run with here, such as AVX2; it belongs beside every timing."""
    faiss = import_module("faiss")
    if hasattr(faiss, "SIMDConfig"):
        return str(faiss.SIMDConfig.get_level_name())
    return str(faiss.get_compile_options()).strip()
