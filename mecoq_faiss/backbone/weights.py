"""load_weights(): a network's weights from a .safetensors or .pth file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_weights(net: nn.Module, path: Path, heads: tuple[str, ...]) -> None:
    """Load a state dict from a file, which may also hold the `heads` that were cut, and may lack batch counters."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}: give a .safetensors or .pth file, 'default' or 'none'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            mapped = zipfile.is_zipfile(path)  # no more is taken than the file holds
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            state = state.get("state_dict", state.get("model", state))
        state = {key.removeprefix("module."): value for key, value in state.items()}
        _check_kinds(net, state)
        missing, left = net.load_state_dict(state, strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"weights file {path} cannot be loaded into this backbone: {reason}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    left = [key for key in left if not key.startswith(tuple(f"{head}." for head in heads))]
    if missing or left:
        what = (
            f"lacks {len(missing)} tensors, first {missing[0]!r}" if missing else f"has {left[0]!r} and no place for it"
        )
        raise ValueError(f"weights file {path} is for another backbone: it {what}")


def _check_kinds(net: nn.Module, state: dict[str, Any]) -> None:
    """ValueError for what is no tensor, or one of numbers of another kind, which torch would convert."""
    for name, tensor in net.state_dict().items():
        found = state.get(name, tensor)
        if not isinstance(found, Tensor) or found.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{name} is {getattr(found, 'dtype', 'no tensor')}, not {tensor.dtype}")
