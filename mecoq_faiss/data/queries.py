"""What an application hands over as queries -> RGB images, or rows of features. Imports no torch; takes its tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mecoq_faiss.data.features import FEATURE_TYPES, open_features
from mecoq_faiss.data.images import UnreadableImage, decode_image, upright_rgb


def to_features(features: Any, width: int) -> np.ndarray:
    """Floats (F,) or (n, F), or the files that hold them, -> (n, F) float32; ValueError for anything else."""
    paths = [features] if isinstance(features, str | Path) else features
    if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | Path) for path in paths):
        return np.concatenate([_read_features(Path(path), width) for path in paths])
    try:
        given = features.detach().float().cpu().numpy() if _is_tensor(features) else features
        x = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model takes features (n, {width}) or files of them: {error}") from error
    x = x.reshape(0, width) if x.shape == (0,) else x.reshape(1, -1) if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"the model takes features of width {width}, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the features hold NaN or infinite values: remove or recompute those rows")
    return x


def _read_features(path: Path, width: int) -> np.ndarray:
    _check_is_file(path)
    if path.suffix.lower() not in FEATURE_TYPES:
        raise ValueError(f"{path}: the model takes features, give a file of them ({', '.join(FEATURE_TYPES)})")
    source = open_features(path, str(path))
    if source.features.shape[-1] != width:
        raise ValueError(f"{path} holds features of width {source.features.shape[-1]}, the model takes {width}")
    source.check_finite()
    return source.vectors(slice(None))


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the files in it")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the path")


def each_image(images: Any) -> Iterator[Any]:
    """One image or many -> each of them; ValueError for what is neither."""
    if isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        yield images
    elif isinstance(images, np.ndarray) or _is_tensor(images):
        if images.ndim not in (3, 4):
            raise ValueError(f"expected one image or a batch, got an array of shape {tuple(images.shape)}")
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Sequence):
        yield from images
    else:
        raise ValueError(f"cannot encode a {type(images).__name__}: give paths, bytes, PIL images, arrays or a tensor")


def open_image(image: Any, size: int) -> Image.Image:
    """Anything that is an image -> RGB; a large JPEG of at least `size` pixels a side.

    Raises ValueError for anything else, `UnreadableImage` where it cannot be decoded, FileNotFoundError.
    """
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
    if _is_tensor(image):
        image = _pixels(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(image))
    seen = f"array {image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ValueError(f"cannot read an image from {seen}: give a path, bytes, a PIL image or a uint8 array (h, w, 3)")


def _pixels(image: Any) -> np.ndarray:
    """A tensor (3, h, w), uint8 or float in [0, 1] -> (h, w, 3)."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected image tensors (3, h, w), got {tuple(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("float image tensors must lie in [0, 1]: divide by 255, undo any normalisation")
        pixels = (pixels * 255).round().byte()
    return pixels.permute(1, 2, 0).numpy()


def _is_tensor(x: object) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(x, torch.Tensor)
