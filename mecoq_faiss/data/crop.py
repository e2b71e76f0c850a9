"""Squares cut out of an image and resized, the fixed view of inference among them: PIL and numpy, no torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def center_box(width: int, height: int) -> Box:
    """The largest centred square; half a pixel up and left of the centre where the rest is odd."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def crop(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """Cut `box` out of an RGB image and resize it (bicubic, antialiased) to (3, size, size) uint8."""
    # crop() first: resize(box=...) would let pixels outside the box shine in
    pixels = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))
    return pixels.transpose(2, 0, 1).copy()


def fixed_view(image: Image.Image, size: int) -> np.ndarray:
    """Inference's view: the centred square, resized, (3, size, size) uint8."""
    return crop(image, center_box(*image.size), size)
