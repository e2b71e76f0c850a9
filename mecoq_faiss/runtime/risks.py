"""risks(): what makes results here unrepeatable, or files unsafe; each one line with its reason and its mend."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

MANY_CORES = 16
FEW_FILES = 1024  # open ones: a bundle takes up to 25, a decoding process 3, and there are libraries too
LITTLE_ROOM = 1 << 30  # bytes
KERNELS = (
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY", "FAISS_OPT_LEVEL",
    "FAISS_SIMD_LEVEL",
)  # fmt: skip
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse")
OPENMP = re.compile(r"(libgomp|libiomp5|libomp)(-[0-9a-f]+)?\.so")
UNRELEASED = re.compile(r"dev|git|nightly|\d(a|b|rc)\d")


def risks(cache: Path, packages: tuple[str, ...] = ()) -> list[str]:
    """What to know before results are compared or files shared; none where all is well.

    Args:
        cache: the folder of cached features.
        packages: names whose versions are looked at.
    """
    found = [*_threads(os.environ), *_numbers(os.environ), *_versions(packages), *_process(os.environ)]
    return [*found, *_cache(cache), *_temporary(os.environ)]


def _threads(env: Mapping[str, str]) -> Iterator[str]:
    kinds = openmp_runtimes()
    if len(kinds) > 1:
        yield (
            f"{' and '.join(kinds)} are loaded together: two kinds of OpenMP runtime can crash or compute wrongly; "
            "install torch and FAISS from one place, both by pip or both by conda"
        )
    if env.get("KMP_DUPLICATE_LIB_OK", "").lower() in ("1", "true", "yes", "on"):
        yield (
            "KMP_DUPLICATE_LIB_OK hides that two OpenMP runtimes are loaded, which can compute wrongly: unset it, and "
            "install torch and FAISS from one place"
        )
    cores = os.cpu_count() or 1
    if "OMP_NUM_THREADS" not in env and cores >= MANY_CORES:
        yield (
            f"OMP_NUM_THREADS is not set and there are {cores} cores: sums round differently with another number of "
            "threads; set it, and the same wherever bytes are to be equal"
        )


def openmp_runtimes() -> list[str]:
    """The kinds of OpenMP runtime in this process, after torch and FAISS are imported; Linux, elsewhere none."""
    try:
        names = {line.rsplit("/", 1)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        return []
    return sorted({found[1] for name in names if (found := OPENMP.match(name))})


def _numbers(env: Mapping[str, str]) -> Iterator[str]:
    for name in KERNELS:
        if env.get(name):
            yield f"{name}={env[name]} chooses other kernels, whose results differ in the last bits: unset it"
    import torch

    if not torch.cuda.is_available():
        return
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    if tf32 and env.get("NVIDIA_TF32_OVERRIDE") != "0":
        yield "the GPU rounds to TF32, so its vectors differ from a CPU's from the fourth digit: NVIDIA_TF32_OVERRIDE=0"
    if torch.backends.cudnn.benchmark:
        yield "cudnn.benchmark chooses kernels by timing, anew in each run: torch.backends.cudnn.benchmark = False"
    if not torch.are_deterministic_algorithms_enabled():
        yield (
            "some GPU kernels add in no fixed order, so trainings on it are not equal in their bytes: from Python "
            "torch.use_deterministic_algorithms(True) with CUBLAS_WORKSPACE_CONFIG=:4096:8, or train with --device cpu"
        )


def _versions(packages: tuple[str, ...]) -> Iterator[str]:
    for name in packages:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if UNRELEASED.search(version):
            yield f"{name} {version} is no release, and cannot be installed again later: pip install a released one"


def _process(env: Mapping[str, str]) -> Iterator[str]:
    if env.get("LD_PRELOAD"):
        yield f"LD_PRELOAD={env['LD_PRELOAD']} takes the place of library functions: unset it, unless it is meant"
    if sys.platform == "win32":
        return
    import resource

    if os.geteuid() == 0:
        yield "this runs as root, whom no file permission stops, and whose files others cannot change: use another user"
    mask = os.umask(0o022)
    os.umask(mask)
    if not mask & stat.S_IWOTH:
        yield f"umask {mask:03o} lets everybody write what is made here: umask 022"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < FEW_FILES:
        yield f"at most {files} files can be open, too few for many workers or bundles: ulimit -n 4096"


def _cache(cache: Path) -> Iterator[str]:
    there = next((folder for folder in (cache, *cache.absolute().parents) if folder.is_dir()), Path("/"))
    if there.stat().st_mode & stat.S_IWOTH and not (there.stat().st_mode & stat.S_ISVTX and there != cache):
        yield f"everybody can write into the cache {there}, and what lies there is trusted: chmod o-w {there}"
    kind = file_system(there)
    if kind in NETWORK:
        yield (
            f"the cache {cache} lies on {kind}, whose locks and renames may not hold between machines: set "
            "MECOQ_FAISS_CACHE to a local folder"
        )
    elif kind in ("tmpfs", "ramfs"):
        yield f"the cache {cache} lies in memory ({kind}), and is gone at the next start: set MECOQ_FAISS_CACHE"


def _temporary(env: Mapping[str, str]) -> Iterator[str]:
    wanted, folder = env.get("TMPDIR"), tempfile.gettempdir()
    if wanted and not (os.path.isdir(wanted) and os.access(wanted, os.W_OK | os.X_OK)):
        yield f"TMPDIR={wanted} is no folder that can be written, so {folder} is used: make it, or set another"
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield f"others can exchange files in {folder}: chmod +t {folder}, or set TMPDIR to a folder of your own"
    free = shutil.disk_usage(folder).free
    if free < LITTLE_ROOM:
        yield f"{folder} has {free / 1e6:.0f} MB left, and compressed tars are unpacked there: set TMPDIR"


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of file system a folder lies on, as Linux names it; empty where that is not known."""
    path, best, kind = os.path.realpath(folder), "", ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, point, of, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if os.path.join(path, "").startswith(os.path.join(point, "")) and len(point) >= len(best):
            best, kind = point, of
    return kind
