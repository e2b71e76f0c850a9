"""Is there one working FAISS in this environment? Said in one line, with its mend, before anything else fails."""

from __future__ import annotations

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


def check_faiss() -> None:
    """Return where exactly one FAISS imports.

    Raises:
        ImportError: FAISS is missing or broken, or two wheels share one environment: they overwrite each
            other's files and hide the GPU's symbols (faiss issue #2892).
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        names = " ".join(wheels)
        raise ImportError(
            f"two FAISS wheels in one environment overwrite each other ({', '.join(wheels)}): "
            f"run `pip uninstall -y {names}`, then `pip install` the one you want"
        )
    reinstall = f"run `pip install --force-reinstall --no-deps {next(iter(wheels), 'faiss-cpu')}`"
    try:
        faiss = import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise ImportError(f"FAISS needs {error.name}, which is missing: run `pip install {error.name}`") from error
        raise ImportError("FAISS is missing: run `pip install faiss-cpu` (or faiss-gpu for CUDA)") from error
    except ImportError as error:
        raise ImportError(f"FAISS is installed but does not import ({error}): {reinstall}") from error
    if not hasattr(faiss, "IndexPQ"):  # an uninstall of the second wheel leaves an empty package behind
        raise ImportError(f"FAISS is only partly installed: {reinstall}")


def simd_level() -> str:
    """The instruction set that FAISS's kernels run with here, such as AVX2; it belongs beside every timing."""
    faiss = import_module("faiss")
    if hasattr(faiss, "SIMDConfig"):
        return str(faiss.SIMDConfig.get_level_name())
    return str(faiss.get_compile_options()).strip()
