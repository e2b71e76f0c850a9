"""Queries to vectors: what an application needs beside FAISS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mecoq_faiss.bundle.folder import ENCODER_FILES, Pinned, is_bundle, pinned
from mecoq_faiss.bundle.stored_model import read_model
from mecoq_faiss.data.features import FEATURE_TYPES, open_features
from mecoq_faiss.data.images import UnreadableImage, decode_image, upright_rgb
from mecoq_faiss.data.views import fixed_view, to_float
from mecoq_faiss.index.codes import decode_codes, sum_codes
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.devices import resolve_device
from mecoq_faiss.training.run_folder import RunFolder

ENCODE_BATCH = 64  # fixed: features differ in the last bits between batch sizes


class Encoder:
    """Images -> vectors for `index.search`, and for `index.add`.

    Of product codes both are the segment-normalised embedding (Eq. 16, 15). Of additive codes a query is the embedding
    of norm 1, M times in a row, and what `index.add` takes are the chosen codewords, one after the other.

    Attributes:
        model: the trained model, in eval mode on `device`.
        device: its name, such as `cpu` or `cuda:1`.
        backbone: the model's, with its batch norms folded into its convolutions: the same features, sooner.
        quantizer: what makes the codes, of the model.
        d: the dimension of the index: D, of additive codes M * D.

    Example:
        >>> from mecoq_faiss import load_encoder
        >>> encoder = load_encoder("bundle")
        >>> encoder.encode(["query.png", "photos/0.png"]).shape == (2, encoder.d)
        True
    """

    def __init__(self, model: MeCoQ, device: str | torch.device = "auto") -> None:
        self.device = resolve_device(device)
        self.model = model.eval().to(self.device)
        self.backbone = self.model.backbone.for_inference(self.model.config.image_size)
        self.quantizer = self.model.coder
        if self.is_additive and self.quantizer is not self.model.additive:
            raise ValueError("the model's additive codebooks are fitted when training ends: this one has none yet")
        self.d = self.quantizer.M * self.quantizer.d

    @property
    def is_additive(self) -> bool:
        """Whether codes stand for the sum of their codewords."""
        return self.model.config.codes == "additive"

    @property
    def codebooks(self) -> np.ndarray:
        """The codebooks that an index of its codes holds, (M, K, d / M) float32."""
        return self.quantizer.index_codebooks().detach().cpu().numpy()

    @property
    def takes_features(self) -> bool:
        """Whether the model takes ready features and no images."""
        return self.model.config.backbone == "features"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one ready view, (3, size, size), or of one row of features, (F,)."""
        size = self.model.config.image_size
        return (self.model.backbone.feature_dim,) if self.takes_features else (3, size, size)

    @property
    def top_score(self) -> float | None:
        """The highest score, and the negative of the lowest: M, of additive codes 1; None where scores have none."""
        if not self.is_additive:
            return float(self.quantizer.M)
        return 1.0 if self.model.config.metric in ("aqs", "cosine") else None

    def encode(self, images: Any, *, for_database: bool = False) -> np.ndarray:
        """Encode one image or many.

        Args:
            images: a path, an image file's bytes, an open binary file (read from its start, and left open), a PIL
                image, a uint8 array (h, w, 3), or a list of these; a uint8 array (n, h, w, 3); a tensor (3, h, w) or
                (n, 3, h, w), uint8 in 0-255 or float in [0, 1]. For a model of features: (F,) or (n, F) floats, or
                the path, or a list of paths, of .npy or .h5 files as `train` takes them: every row is a query, of
                several views the first.
            for_database: give vectors for `index.add`, not for `index.search`; of product codes they are the same.

        Returns:
            (n, d) float32. One image gives n = 1.

        Raises:
            ValueError: input of another kind; `UnreadableImage` (a ValueError) for a file that is no image.
            FileNotFoundError: a path that is not there.
        """
        xq = self._queries(images)
        return decode_codes(self.codebooks, self.codes(xq)) if for_database and self.is_additive else xq

    def queries_of(self, codes: np.ndarray) -> np.ndarray:
        """What codes (n, M) uint8 stand for as queries (n, d) float32: items like them are found by it."""
        if not self.is_additive:
            return decode_codes(self.codebooks, codes)
        x = sum_codes(self.codebooks, codes)  # (n, D)
        metric = self.model.config.metric
        if metric == "l2":
            x[:, -1] = 1
        elif metric != "ip":
            x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return np.tile(x, self.quantizer.M)

    def _queries(self, images: Any) -> np.ndarray:
        if self.takes_features:
            return self.encode_batch(_to_features(images, self.model.backbone.feature_dim))
        size = self.model.config.image_size
        items = list(_each_image(images))
        batches = (items[i : i + ENCODE_BATCH] for i in range(0, len(items), ENCODE_BATCH))
        done = [self.encode_batch(torch.stack([fixed_view(_open(item, size), size) for item in b])) for b in batches]
        return np.concatenate(done) if done else np.empty((0, self.d), np.float32)

    @torch.inference_mode()
    def encode_batch(self, batch: Tensor) -> np.ndarray:
        """Ready views (b, 3, s, s) uint8, or features (b, F) float32 -> queries (b, d) float32."""
        x = batch.to(self.device, non_blocking=True)
        return self.model.vectors(x if self.takes_features else self.backbone(to_float(x))).cpu().numpy()

    @torch.inference_mode()
    def codes(self, xq: np.ndarray) -> np.ndarray:
        """Codes (b, M) uint8 of what `encode` gives, (b, d); of product codes Eq. 15."""
        return self.quantizer.encode(torch.from_numpy(xq).to(self.device)).cpu().numpy()


def load_encoder(path: str | Path, device: str | torch.device = "auto") -> Encoder:
    """The encoder of a bundle (its files are checked against the manifest) or of a finished run.

    `device` is `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Raises FileNotFoundError or ValueError where the folder is neither, or damaged, or the device is not there.

    Example:
        >>> from mecoq_faiss import load_encoder
        >>> index = faiss.read_index("bundle/index.faiss")
        >>> D, I = index.search(load_encoder("bundle").encode("query.png"), 3)
    """
    run = RunFolder(path)
    if run.config_file.is_file() and not is_bundle(path):
        return Encoder(run.load_trained(), device)
    try:
        with pinned(path, ENCODER_FILES) as files:
            return encoder_in(files, device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is not a run folder and not a bundle: give a folder that train or export-index made"
        ) from error


def encoder_in(bundle: Pinned, device: str | torch.device = "auto") -> Encoder:
    """The encoder of an opened bundle; ValueError where its files do not fit the manifest or each other."""
    return Encoder(read_model(bundle), device)


def _to_features(features: Any, width: int) -> Tensor:
    """Floats (F,) or (n, F), or the files that hold them, -> (n, F) float32."""
    paths = [features] if isinstance(features, str | Path) else features
    if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | Path) for path in paths):
        return torch.cat([_read_features(Path(path), width) for path in paths])
    try:
        x = torch.as_tensor(features if isinstance(features, Tensor) else np.asarray(features, np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model takes features (n, {width}) or files of them: {error}") from error
    x = x.detach().float().cpu()
    x = x.reshape(0, width) if x.shape == (0,) else x.view(1, -1) if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"the model takes features of width {width}, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("the features hold NaN or infinite values: remove or recompute those rows")
    return x


def _read_features(path: Path, width: int) -> Tensor:
    _check_is_file(path)
    if path.suffix.lower() not in FEATURE_TYPES:
        raise ValueError(f"{path}: the model takes features, give a file of them ({', '.join(FEATURE_TYPES)})")
    source = open_features(path, str(path))
    if source.features.shape[-1] != width:
        raise ValueError(f"{path} holds features of width {source.features.shape[-1]}, the model takes {width}")
    source.check_finite()
    return torch.from_numpy(source.vectors(slice(None)))


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the files in it")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the path")


def _each_image(images: Any) -> Iterator[Any]:
    if isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        yield images
    elif isinstance(images, np.ndarray | Tensor):
        if images.ndim not in (3, 4):
            raise ValueError(f"expected one image or a batch, got an array of shape {tuple(images.shape)}")
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Sequence):
        yield from images
    else:
        raise ValueError(f"cannot encode a {type(images).__name__}: give paths, bytes, PIL images, arrays or a tensor")


def _open(image: Any, size: int) -> Image.Image:
    """Anything that is an image -> RGB."""
    if isinstance(image, str | Path):
        _check_is_file(Path(image))
        if Path(image).suffix.lower() in FEATURE_TYPES:
            raise ValueError(f"{image} is a file of features: the model takes images")
        return decode_image(image, draft=size)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), draft=size, name="the bytes given")
    if isinstance(image, TextIOBase):
        raise ValueError(f"{getattr(image, 'name', 'the file')} is open as text: open it with mode 'rb'")
    if hasattr(image, "read"):
        return decode_image(image, draft=size)
    if isinstance(image, Image.Image):
        try:
            image.load()
            return upright_rgb(image)
        except (OSError, ValueError) as error:
            raise UnreadableImage(f"the PIL image cannot be read: {error}") from error
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"expected image tensors (3, h, w), got {tuple(image.shape)}")
        pixels = image.detach().cpu()
        if pixels.is_floating_point():
            if not (pixels.min() >= 0 and pixels.max() <= 1):
                raise ValueError("float image tensors must lie in [0, 1]: divide by 255, undo any normalisation")
            pixels = (pixels * 255).round().to(torch.uint8)
        image = pixels.permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(image))
    seen = f"array {image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ValueError(f"cannot read an image from {seen}: give a path, bytes, a PIL image or a uint8 array (h, w, 3)")
