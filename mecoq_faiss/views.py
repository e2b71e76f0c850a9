"""The views of an image: two random ones for training, one fixed one for inference.

Geometry is per image and runs where the image is decoded; colour runs on whole batches, on whatever device they are,
with parameters of its own for each image. All randomness is drawn beforehand from (seed, view, row), so a view does
not depend on the batch, the worker or the device that makes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@dataclass(frozen=True)
class ViewSpec:
    """How random views are drawn; the defaults are the paper's (those of CIBHash).

    Attributes:
        crop_scale: share of the image's area that the crop keeps, from - to.
        crop_ratio: its aspect ratio (width / height), from - to.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation (factors in 1 +- s) and hue (turns, +- s).
        jitter_p, grey, blur: probabilities of jitter, of turning grey, of a 3 x 3 Gaussian blur (sigma 0.1 to 2).
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.7
    grey: float = 0.2
    blur: float = 0.5


class View(NamedTuple):
    """One drawn view: the crop box in pixels (left, top, right, bottom) and the colour parameters (7,) float32."""

    box: tuple[float, float, float, float]
    colour: np.ndarray  # flip 0/1, brightness, contrast, saturation, hue (turns), grey 0/1, blur weight


def draw_view(spec: ViewSpec, width: int, height: int, key: tuple[int, ...]) -> View:
    """Draw a view of a (width, height) image; the same `key`, e.g. (seed, view, row), gives the same view."""
    rng = np.random.default_rng(key)
    box = _draw_box(spec, width, height, rng)
    flip, jitter, grey, blur = rng.random(4) < (spec.flip, spec.jitter_p, spec.grey, spec.blur)
    *strengths, hue = np.array(spec.jitter) * rng.uniform(-1, 1, 4) * jitter
    edge = math.exp(-0.5 / rng.uniform(0.1, 2.0) ** 2)
    weight = edge / (1 + 2 * edge) if blur else 0.0
    colour = np.array([flip, *(1 + s for s in strengths), hue, grey, weight], dtype=np.float32)
    return View(box, colour)


def _draw_box(spec: ViewSpec, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    low, high = (math.log(r) for r in spec.crop_ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*spec.crop_scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return centre_box(width, height)


def centre_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest centred square, (left, top, right, bottom)."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def crop(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Tensor:
    """Cut `box` out of an RGB image and resize it (bicubic, antialiased) to (3, size, size) uint8."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def fixed_view(image: Image.Image, size: int) -> Tensor:
    """Inference's view: the centred square, resized, (3, size, size) uint8."""
    return crop(image, centre_box(*image.size), size)


def to_float(images: Tensor) -> Tensor:
    """uint8 (b, 3, h, w) in 0-255 -> float32 in [0, 1]."""
    return images.float().div_(255)


def apply_colour(images: Tensor, colour: Tensor) -> Tensor:
    """Flip, jitter, grey and blur, each image by its own parameters.

    Brightness, contrast, saturation and hue (a rotation of the chroma plane of YIQ) are affine in colour, so a whole
    jitter is one 3 x 4 matrix an image.

    Args:
        images: (b, 3, h, w) uint8.
        colour: (b, 7) float32, rows of `View.colour`.

    Returns:
        (b, 3, h, w) float32 in [0, 1].
    """
    flip, brightness, contrast, saturation, hue, grey, blur = colour.to(images.device).unbind(1)  # (b,) each
    x = to_float(images)
    x = torch.where(flip.view(-1, 1, 1, 1) > 0, x.flip(3), x)
    matrix, mean_weight = _colour_matrix(brightness, contrast, saturation, hue, grey)  # (b, 3, 3), (b,)
    luma = x.new_tensor(GREY)
    offset = mean_weight * (x.mean(dim=(2, 3)) @ luma)  # (b,)
    x = torch.baddbmm(offset.view(-1, 1, 1), matrix, x.flatten(2)).view_as(x).clamp_(0, 1)
    return _blur(x, blur)


def _colour_matrix(b: Tensor, c: Tensor, s: Tensor, hue: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
    """x -> matrix @ x + mean_weight * (mean luma of x), for brightness, contrast, saturation, hue, grey in turn."""
    eye = torch.eye(3, device=b.device)
    luma = eye.new_tensor(GREY).expand(3, 3)  # every row the luma weights: x -> its grey
    to_yiq = eye.new_tensor(YIQ)
    angle = 2 * math.pi * hue
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos()], dim=1).view(
        -1, 3, 3
    )
    turn = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    s3, grey3 = s.view(-1, 1, 1), grey.view(-1, 1, 1)
    matrix = (b * c).view(-1, 1, 1) * (turn @ (s3 * eye + (1 - s3) * luma))
    matrix = torch.where(grey3 > 0, luma @ matrix, matrix)
    return matrix, b * (1 - c)  # saturation, hue and grey leave a grey offset as it is


def _blur(x: Tensor, weight: Tensor) -> Tensor:
    """Separable 3 x 3 blur with kernel (w, 1 - 2w, w), w (b,); rows with w = 0 stay as they are."""
    rows = weight.nonzero().squeeze(1)
    if len(rows) == 0 or min(x.shape[2:]) < 2:
        return x
    w = weight[rows].view(-1, 1, 1, 1)
    y = torch.nn.functional.pad(x[rows], (1, 1, 1, 1), mode="reflect")
    y = (1 - 2 * w) * y[:, :, 1:-1] + w * (y[:, :, :-2] + y[:, :, 2:])
    x[rows] = (1 - 2 * w) * y[..., 1:-1] + w * (y[..., :-2] + y[..., 2:])
    return x
