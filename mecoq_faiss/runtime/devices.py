"""The device that work runs on, whether training steps take bfloat16 there, and its random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_device(device: str | torch.device) -> str:
    """`auto` -> cuda where there is one, else cpu; a torch.device -> its name; ValueError for one that is not there."""
    device = str(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} is not available ({reason}): use --device cpu or auto") from error
    return device


def use_bf16(precision: str, device: str) -> bool:
    """Whether training steps run their network in bfloat16, as `TrainConfig.precision` says."""
    on_gpu = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16" or (precision == "auto" and on_gpu)


@contextmanager
def random_state_kept(device: str) -> Iterator[None]:
    """Seeding and drawing within leave torch's global random state, also that of GPUs in use, as it was."""
    seeded = device.startswith("cuda") or torch.cuda.is_initialized()  # `torch.manual_seed` reaches every GPU
    with torch.random.fork_rng(range(torch.cuda.device_count()) if seeded else []):
        yield
