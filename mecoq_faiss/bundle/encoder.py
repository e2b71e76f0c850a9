"""Queries to vectors: what an application needs beside FAISS, whatever computes them; and how it is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from mecoq_faiss.bundle.folder import ENCODER_FILES, MANIFEST, ONNX, Pinned, first_shard, is_bundle, pinned
from mecoq_faiss.bundle.hub import local_folder
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.queries import each_image, open_image, to_features
from mecoq_faiss.runtime.missing import needing_torch
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.storage.files import open_regular

if TYPE_CHECKING:
    import torch

    from mecoq_faiss.bundle.torch_encoder import TorchEncoder

ENCODE_BATCH = 64  # fixed: features differ in the last bits between batch sizes
RUNTIMES = ("torch", "onnx")


class Encoder(ABC):
    """Images -> vectors for `index.search`, and for `index.add`.

    Of product codes both are the segment-normalised embedding (Eq. 16, 15). Of additive codes a query is the embedding
    of norm 1, M times in a row, and what `index.add` takes are the chosen codewords, one after the other.

    Attributes:
        shape: of one ready input: (3, s, s) of a view, or (F,) of features.
        d: the dimension of the index: D, of additive codes M * D.
        is_additive: whether codes stand for the sum of their codewords.

    Example:
        >>> from mecoq_faiss import load_encoder
        >>> encoder = load_encoder("bundle")
        >>> encoder.encode(["query.png", "photos/0.png"]).shape == (2, encoder.d)
        True
    """

    def __init__(self, shape: tuple[int, ...], d: int, is_additive: bool) -> None:
        self.shape, self.d, self.is_additive = shape, d, is_additive

    @property
    def takes_features(self) -> bool:
        """Whether the model takes ready features and no images."""
        return len(self.shape) == 1

    def encode(
        self,
        images: Any,
        *,
        for_database: bool = False,
        batch_size: int = ENCODE_BATCH,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """Encode one image or many.

        Args:
            images: a path, an image file's bytes, an open binary file (read from its start, and left open), a PIL
                image, a uint8 array (h, w, 3), or a list of these; a uint8 array (n, h, w, 3); a tensor (3, h, w) or
                (n, 3, h, w), uint8 in 0-255 or float in [0, 1]. For a model of features: (F,) or (n, F) floats, or
                the path, or a list of paths, of .npy or .h5 files as `train` takes them: every row is a query, of
                several views the first.
            for_database: give vectors for `index.add`, not for `index.search`; of product codes they are the same.
            batch_size: images computed together. The last bits of vectors depend on it: exports take the default.
            show_progress_bar: say how many images are done, on stderr.

        Returns:
            (n, d) float32. One image gives n = 1.

        Raises:
            ValueError: input of another kind, a batch_size below 1; `UnreadableImage` (a ValueError) for a file that is
                no image.
            FileNotFoundError: a path that is not there.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        xq = self._queries(images, batch_size, show_progress_bar)
        return self.chosen_codewords(xq) if for_database and self.is_additive else xq

    def _queries(self, images: Any, batch_size: int, show: bool) -> np.ndarray:
        size = self.shape[-1]
        if self.takes_features:
            return self.encode_batch(to_features(images, size))
        items = list(each_image(images))
        starts = range(0, len(items), batch_size)
        shown = progress(starts, total=len(starts), label="encode", unit="batch") if show else starts
        done = []
        for start in shown:
            views = [fixed_view(open_image(item, size), size) for item in items[start : start + batch_size]]
            done.append(self.encode_batch(np.stack(views)))
        return np.concatenate(done) if done else np.empty((0, self.d), np.float32)

    @abstractmethod
    def encode_batch(self, batch: Any) -> np.ndarray:
        """Ready views (b, 3, s, s) uint8, or features (b, F) float32, array or tensor -> queries (b, d) float32."""

    @abstractmethod
    def chosen_codewords(self, xq: np.ndarray) -> np.ndarray:
        """What `index.add` takes for queries (b, d) of additive codes: their codewords side by side, (b, d) float32."""


@overload
def load_encoder(
    path: str | Path, device: str | torch.device = "auto", runtime: Literal["torch"] = "torch"
) -> TorchEncoder: ...
@overload
def load_encoder(path: str | Path, device: str | torch.device = "auto", *, runtime: str) -> Encoder: ...
def load_encoder(path: str | Path, device: str | torch.device = "auto", runtime: str = "torch") -> Encoder:
    """The encoder of a bundle (its files are checked against the manifest) or of a finished run.

    Args:
        path: the bundle or the run; for the runtime `onnx` a bundle that was exported with `--onnx`, or the file that
            `export-encoder` wrote.
            `hf://ORG/NAME[@REVISION]` is a bundle on the Hugging Face Hub (extra: hub).
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device. onnxruntime runs on
            the CPU.
        runtime: `torch`, or `onnx`, which needs no torch (extra: onnx).

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: it is damaged, or has no encoder.onnx; the device is not there.
        ImportError: the runtime is not installed.

    Example:
        >>> from mecoq_faiss import load_encoder
        >>> index = faiss.read_index("bundle/index.faiss")
        >>> D, I = index.search(load_encoder("bundle").encode("query.png"), 3)
    """
    wanted = (ONNX,) if check_runtime(runtime) == "onnx" else ENCODER_FILES
    wanted = (MANIFEST, *wanted)
    path = first_shard(local_folder(path, (*wanted, *(f"shard-*/{name}" for name in wanted))))
    if runtime == "onnx":
        return _load_onnx(Path(path), device)
    with needing_torch("runtime='torch'"):
        from mecoq_faiss.bundle.torch_encoder import TorchEncoder
        from mecoq_faiss.training.run_folder import RunFolder
    run = RunFolder(path)
    if run.config_file.is_file() and not is_bundle(path):
        return TorchEncoder(run.load_trained(), device)
    try:
        with pinned(path, ENCODER_FILES) as files:
            return encoder_in(files, device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is not a run folder and not a bundle: give a folder that train or export-index made"
        ) from error


def _load_onnx(path: Path, device: str | torch.device) -> Encoder:
    from mecoq_faiss.bundle.onnx_encoder import OnnxEncoder

    if path.is_file():
        with open_regular(path) as file:
            return OnnxEncoder(file, device)
    try:
        with pinned(path, (ONNX,)) as files:
            return encoder_in(files, device, runtime="onnx")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is no bundle and no file: give what export-index --onnx or export-encoder made"
        ) from error


def check_runtime(runtime: str) -> str:
    """`torch` or `onnx`, as it is; ValueError for another."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r}: choose {' or '.join(RUNTIMES)}")
    return runtime


@overload
def encoder_in(
    bundle: Pinned, device: str | torch.device = "auto", runtime: Literal["torch"] = "torch"
) -> TorchEncoder: ...
@overload
def encoder_in(bundle: Pinned, device: str | torch.device = "auto", *, runtime: str) -> Encoder: ...
def encoder_in(bundle: Pinned, device: str | torch.device = "auto", runtime: str = "torch") -> Encoder:
    """The encoder of an opened bundle; ValueError where its files do not fit the manifest or each other."""
    if check_runtime(runtime) == "onnx":
        from mecoq_faiss.bundle.onnx_encoder import onnx_encoder_in

        return onnx_encoder_in(bundle, device)
    with needing_torch("runtime='torch'"):
        from mecoq_faiss.bundle.stored_model import read_model
        from mecoq_faiss.bundle.torch_encoder import TorchEncoder
    return TorchEncoder(read_model(bundle), device)
