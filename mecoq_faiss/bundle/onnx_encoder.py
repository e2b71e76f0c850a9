"""OnnxEncoder: queries to vectors by onnxruntime, of the graph that `onnx_export` wrote. Imports no torch."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, BinaryIO

import faiss
import numpy as np

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.bundle.folder import ONNX, Pinned, lacking

if TYPE_CHECKING:
    import torch

FORMAT = 1  # of what a graph's metadata say
KEY = "mecoq_faiss"  # of the graph's metadata
INSTALL = "pip install 'mecoq-faiss[onnx]'"
MOST_BYTES = 1 << 31  # of a protocol buffer
ELSEWHERE = "session.model_external_initializers_file_folder_path"


class OnnxEncoder(Encoder):
    """See `Encoder`. It runs on the CPU, on as many threads as FAISS takes, and may be used from many threads.

    Args:
        file: the graph, open; its `name` is what errors call it.
        device: `auto` or `cpu`.

    Raises:
        ValueError: it is damaged, or another program's; another device.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, file: BinaryIO, device: str | torch.device = "auto") -> None:
        if str(device) not in ("auto", "cpu"):
            raise ValueError(f"device={str(device)!r}: runtime='onnx' is for the CPU, leave the device out")
        self._session = _session(file)
        said = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        try:
            settings = json.loads(said or "")
            version, additive = settings["format"], settings["codes"] == "additive"
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{file.name} is no encoder of mecoq-faiss: give what export-encoder wrote") from None
        if version != FORMAT:
            raise ValueError(f"{file.name} was made by another mecoq-faiss (format {str(version)[:20]}): export again")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape, out = tuple(inputs[0].shape[1:]), tuple(outputs[0].shape[1:])
        kinds = {("tensor(float)", 1), ("tensor(uint8)", 3)}
        fits = len(inputs) == len(outputs) == 1 and (inputs[0].type, len(shape)) in kinds
        fits = fits and outputs[0].type == "tensor(float)" and len(out) == 1
        if not fits or not all(isinstance(n, int) and n > 0 for n in shape + out) or shape[1:2] != shape[2:]:
            raise ValueError(f"{file.name} is damaged (its input or output is not an encoder's): export it again")
        self._input = inputs[0].name
        super().__init__(shape, out[0], additive)

    def encode_batch(self, batch: Any) -> np.ndarray:
        """See `Encoder.encode_batch`."""
        return self._session.run(None, {self._input: np.asarray(batch)})[0]

    def chosen_codewords(self, xq: np.ndarray) -> np.ndarray:
        """ValueError: additive codes are found by the model itself."""
        raise ValueError("additive codes are found by torch: for index.add load the encoder with runtime='torch'")


def onnx_encoder_in(bundle: Pinned, device: str | torch.device = "auto") -> OnnxEncoder:
    """The one of an opened bundle; ValueError where it has none, or it does not fit the manifest."""
    if ONNX not in bundle.names:
        raise lacking(bundle.bundle, ONNX)
    file, manifest = bundle.file(ONNX), bundle.manifest
    encoder = OnnxEncoder(file, device)
    expected = (manifest["d"], manifest.get("codes") == "additive")
    if (encoder.d, encoder.is_additive) != expected:
        raise ValueError(f"{file.name} does not fit the manifest (d={encoder.d}): export the bundle again")
    return encoder


def _session(file: BinaryIO) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"runtime='onnx' needs onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = faiss.omp_get_max_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would take others' time
    options.log_severity_level = 4  # what it would print is in its exceptions
    options.add_session_config_entry(ELSEWHERE, os.devnull)  # a graph may name files that hold its weights: none do
    try:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        return onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's have no class in common
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{file.name} cannot be read by onnxruntime ({reason}): export it again") from error
