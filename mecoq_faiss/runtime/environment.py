"""What this machine has: versions, FAISS wheels, GPUs, threads, SIMD level."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from mecoq_faiss.runtime.faiss_check import installed_wheels, shared_environment, simd_level

PACKAGES = (
    "mecoq-faiss",
    "torch",
    "torchvision",
    "onnxruntime",
    "numpy",
    "h5py",
    "safetensors",
    "pillow",
    "timm",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Versions, FAISS wheels, GPUs, threads, SIMD level of this machine; problems are named."""
    import faiss
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["faiss"] = faiss.__version__
    found["faiss_wheels"] = ", ".join(f"{name} {version}" for name, version in installed_wheels().items()) or "none"
    found["problems"] = shared_environment() or "none"
    found["simd"] = simd_level()
    found["faiss_gpus"] = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    cuda = torch.cuda.is_available()
    found["torch_gpus"] = ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) if cuda else 0
    found["cores"] = os.cpu_count()
    found["torch_threads"] = torch.get_num_threads()
    found["faiss_threads"] = faiss.omp_get_max_threads()
    return found
