"""The device that work runs on, and whether a network takes bfloat16 there."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> str:
    """`auto` -> cuda where there is one, else cpu; ValueError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} is not available ({reason}): use --device cpu or auto") from error
    return device


def use_bf16(precision: str, device: str, *, gradients: bool) -> bool:
    """Whether a network runs in bfloat16, as `TrainConfig.precision` says.

    `auto` takes it on a GPU that has it, and on a CPU that has it where no gradients are wanted: there it halves the
    time of a forward pass; with a backward pass the gain is small, or none.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and not gradients and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # a recent torch's
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
