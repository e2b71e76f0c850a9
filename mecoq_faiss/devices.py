"""The device that work runs on, and whether training steps take bfloat16 there."""

from __future__ import annotations

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
