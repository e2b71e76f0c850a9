"""An encoder as one ONNX graph: ready views, or features, in; queries out; for any batch. Proved against the model."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.bundle.onnx_encoder import FORMAT, KEY, OnnxEncoder
from mecoq_faiss.bundle.proof import MAX_DIFFERENCE, VerificationError
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.storage.files import replacing

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install 'mecoq-faiss[onnx-export]'"
PROBES = 5  # an odd batch, and not the one that is traced


def check_exporting() -> None:
    """ImportError, in one line, where a package that exporting needs is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting to ONNX needs {', '.join(missing)}: {INSTALL}")


def write_onnx(encoder: TorchEncoder, path: Path) -> float:
    """Write the graph of an encoder; the largest difference that it shows from the model.

    It takes `batch`, (b, 3, s, s) uint8 or (b, F) float32, and gives `queries`, (b, d) float32, as
    `Encoder.encode_batch`.

    Raises:
        ValueError: the network cannot be written as a graph.
        VerificationError: the graph computes something else; the file is not left.
        ImportError: see `check_exporting`.
    """
    check_exporting()
    if encoder.device != "cpu":
        encoder = TorchEncoder(copy.deepcopy(encoder.model), "cpu")
    try:
        content = _graph(encoder)
    except Exception as error:  # of torch's exporter, the translation, or the network itself
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:150]
        name = encoder.model.config.backbone
        raise ValueError(
            f"backbone {name} cannot be written as an ONNX graph ({reason}): use runtime='torch' with it"
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        with open(temporary, "rb") as file:
            return onnx_difference(OnnxEncoder(file), encoder)


def onnx_difference(of_graph: Encoder, of_model: Encoder) -> float:
    """The largest difference of their queries for some made-up inputs; VerificationError for more than rounding."""
    rng, shape = np.random.default_rng(0), (PROBES, *of_model.shape)
    if of_graph.shape != of_model.shape:
        raise VerificationError(f"{_MISMATCH} (it takes {of_graph.shape}, not {of_model.shape}): export it again")
    features = of_model.takes_features
    x = rng.normal(size=shape).astype(np.float32) if features else rng.integers(0, 256, shape, dtype=np.uint8)
    expected, found = of_model.encode_batch(x), of_graph.encode_batch(x)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= MAX_DIFFERENCE * max(1.0, float(np.abs(expected).max())):
        raise VerificationError(f"{_MISMATCH} (its queries differ by {difference:.3g}): export it again")
    return difference


_MISMATCH = "the ONNX graph does not compute what the model computes"


class _Queries(nn.Module):
    """The whole way from a ready batch to queries, as a module."""

    def __init__(self, encoder: TorchEncoder) -> None:
        super().__init__()
        self.backbone, self.model, self.vectors = encoder.backbone, encoder.model, encoder.vectors

    def forward(self, batch: Tensor) -> Tensor:
        return self.vectors(batch)


def _graph(encoder: TorchEncoder) -> bytes:
    features = encoder.takes_features
    x = torch.zeros(2, *encoder.shape, dtype=torch.float32 if features else torch.uint8)
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            _Queries(encoder).eval(), (x,), dynamo=True, verbose=False,
            input_names=["batch"], output_names=["queries"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    codes = encoder.model.config.codes
    program.model.metadata_props[KEY] = json.dumps({"format": FORMAT, "codes": codes})
    return program.model_proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its steps, and of a failure in pages: what counts is in its exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
