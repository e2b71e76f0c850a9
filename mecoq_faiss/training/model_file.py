"""model.safetensors: the tensors of a model with their checksum, and its model built anew of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load, save

from mecoq_faiss.config import ModelConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.storage.checksum import checksum
from mecoq_faiss.storage.files import open_regular, replacing

_MOST_AXES = 64
_MOST_HEADER = 100_000_000  # bytes, the limit of safetensors itself
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_SIZES = {name: dtype.itemsize for dtype, name in _DTYPES.items()}
METADATA = "__metadata__"


class Refused(ValueError):
    """What is there is whole, but belongs to something else, or nothing can be made of it here."""


def save_model(model: MeCoQ, path: Path) -> None:
    """All tensors of a model into a .safetensors file, with their checksum."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:  # written by Python, whose error names a full disk
        temporary.write_bytes(save(state, metadata={"sha256": checksum(state)}))


def _build(config: ModelConfig, path: Path) -> MeCoQ:
    """The model that the weights in a file are for, before it gets them."""
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            return MeCoQ(dataclasses.replace(config, weights="none"))
    except ValueError as error:
        raise Refused(f"{path}: its model cannot be built here: {error}") from error


def load_model(config: ModelConfig, source: Path | BinaryIO) -> MeCoQ:
    """Build the model of `config` with the tensors of a .safetensors file, in eval mode.

    `source` is the file's path, or the file itself, open. The caller's random state stays as it is.

    Raises FileNotFoundError or ValueError where the file is missing, damaged or for another model.
    """
    path = source if isinstance(source, Path) else Path(source.name)
    if isinstance(source, Path) and not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: train first, or give the right folder")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_regular(path)) if isinstance(source, Path) else source
        try:
            header = _read_header(file)
            _check_widths(header, config)
            model = _build(config, path)
            _check_tensors(header, model)
            file.seek(0)
            content = file.read()
            state = load(content)
            if checksum(state) != header.get(METADATA, {}).get("sha256"):
                raise RuntimeError("its tensors do not match its checksum")
            model.load_state_dict(state)
        except Refused:
            raise
        except (
            safetensors.SafetensorError,
            ArithmeticError,
            RuntimeError,
            LookupError,
            TypeError,
            ValueError,
            OSError,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is damaged or for another model: {reason}") from error
    return model.eval()


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes of its length, then names, dtypes and shapes in JSON."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MOST_HEADER, os.fstat(file.fileno()).st_size - 8):
        raise ValueError("it is shorter than its header says")
    header = json.loads(file.read(length))
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError("its header is none")
    sizes = [_SIZES[entry["dtype"]] * _count(entry["shape"]) for name, entry in header.items() if name != METADATA]
    if 8 + length + sum(sizes) != os.fstat(file.fileno()).st_size:
        raise ValueError("its size is not that of its tensors")
    return header


def _count(shape: Any) -> int:
    """Elements of a tensor of this shape; of anything else Python might make a list of any length."""
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
    ):
        raise ValueError(f"a shape is {str(shape)[:80]}")
    return math.prod(shape)


def _check_widths(header: dict[str, Any], config: ModelConfig) -> None:
    """ValueError where the shapes that the configuration alone tells are others: before the model is allocated."""
    expected = {"quantizer.codebooks": [config.M, config.K, config.D // config.M]}
    if config.codes == "additive":
        expected["additive.codebooks"] = [config.M, config.K, config.D]
    first, width = ("projection", config.D) if config.projection == "linear" else ("projection.0", config.hidden)
    if config.backbone == "features":
        expected[f"{first}.weight"] = [width, config.feature_dim or 0]
    if config.projection == "mlp":
        expected["projection.2.weight"] = [config.D, config.hidden]
    for name, shape in expected.items():
        if header[name]["shape"] != shape:
            raise ValueError(f"{name} is {str(header[name]['shape'])[:80]}, not {shape}")


def _check_tensors(header: dict[str, Any], model: MeCoQ) -> None:
    """ValueError where names, shapes or dtypes are not the model's."""
    state = model.state_dict()
    names = header.keys() - {METADATA}
    if names != state.keys():
        differing = sorted(names ^ state.keys())
        raise ValueError(f"{len(differing)} tensors are missing or too many, first {differing[0]!r}")
    for name, tensor in state.items():
        found = header[name]["dtype"], header[name]["shape"]
        if found != (_DTYPES.get(tensor.dtype), list(tensor.shape)):
            raise ValueError(f"{name} is {str(found)[:80]}, not {tensor.dtype} {tuple(tensor.shape)}")
