"""The model of an opened bundle, read and compared with what the bundle says of it."""

from __future__ import annotations

import json
import os
from io import BufferedReader

from mecoq_faiss.bundle.folder import ENCODER_FILES, Pinned
from mecoq_faiss.bundle.stored_config import read_model_config
from mecoq_faiss.config import ModelConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.model_file import load_model

DTYPES = {  # safetensors' names of what networks are made of
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_model(bundle: Pinned) -> MeCoQ:
    """The model, in eval mode.

    Raises ValueError, in one line, where configuration, weights and manifest do not fit each other.
    """
    config, weights = read_model_config(bundle), bundle.file(ENCODER_FILES[1])
    _check_size(config, weights)
    try:
        model = load_model(config, weights)
        _check_dtypes(model, weights)
    except (KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{weights.name} is damaged ({type(error).__name__}): export the bundle again") from error
    return model


def _check_size(config: ModelConfig, weights: BufferedReader) -> None:
    """Refuse a model, before it is made, whose least parameters take more bytes than the file has."""
    least = config.K * config.D * (1 + config.M if config.codes == "additive" else 1)
    width = config.feature_dim or 1 if config.backbone == "features" else 1
    if config.backbone == "pixels":
        width = 3 * config.image_size**2
    least += width * config.D if config.projection == "linear" else config.hidden * (width + config.D)
    available = os.fstat(weights.fileno()).st_size
    if 4 * least > available:
        raise ValueError(
            f"{weights.name} has {available:,} bytes, the model of its config.json needs {4 * least:,}: "
            "export the bundle again"
        )


def _check_dtypes(model: MeCoQ, weights: BufferedReader) -> None:
    """Refuse tensors of other types than the model's, which torch would convert."""
    weights.seek(0)
    header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    for name, tensor in model.state_dict().items():
        stored = header[name]["dtype"]
        if f"torch.{DTYPES.get(stored)}" != str(tensor.dtype):
            raise ValueError(f"{weights.name}: {name} is {stored}, expected {tensor.dtype}: export the bundle again")
