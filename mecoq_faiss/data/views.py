"""Random views of an image, for training; the fixed one of inference is in `crop`.

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
from torch import Tensor

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.data.crop import Box, center_box

GRAY = (0.299, 0.587, 0.114)  # ITU-R 601 luma
# x -> axis x (x) / sqrt(3), with the axis (1, 1, 1) of the greys: a quarter turn of the chroma, red towards green
QUARTER_TURN = ((0.0, -(3**-0.5), 3**-0.5), (3**-0.5, 0.0, -(3**-0.5)), (-(3**-0.5), 3**-0.5, 0.0))
CROP_TRIES = 10


@dataclass(frozen=True)
class ViewSpec:
    """How random views are drawn; the defaults are the paper's (those of CIBHash).

    Attributes:
        crop_scale: share of the image's area that the crop keeps, from - to.
        crop_ratio: its aspect ratio (width / height), from - to.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation (factors in 1 +- s) and hue (turns, +- s).
        jitter_p, gray, blur: probabilities of jitter, of turning grey, of a 3 x 3 Gaussian blur (sigma 0.1 to 2).
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.7
    gray: float = 0.2
    blur: float = 0.5


def view_spec(config: TrainConfig) -> ViewSpec:
    """How the views of a training are drawn."""
    return ViewSpec(
        crop_scale=config.crop_scale,
        flip=config.flip,
        jitter=config.jitter,
        jitter_p=config.jitter_p,
        gray=config.gray,
        blur=config.blur,
    )


class View(NamedTuple):
    """One drawn view: the crop box and the colour parameters (7,) float32."""

    box: Box
    color: np.ndarray  # flip 0/1, brightness, contrast, saturation, hue (turns), grey 0/1, blur weight


def draw_view(spec: ViewSpec, width: int, height: int, key: tuple[int, ...]) -> View:
    """Draw a view of a (width, height) image; the same `key`, e.g. (seed, view, row), gives the same view."""
    u = np.random.default_rng(key).random(9 + 4 * CROP_TRIES)  # all at once: each call of numpy costs microseconds
    flip, jitter, gray, blur = u[:4] < (spec.flip, spec.jitter_p, spec.gray, spec.blur)
    brightness, contrast, saturation, hue = (2 * u[4:8] - 1) * spec.jitter * jitter
    edge = math.exp(-0.5 / (0.1 + 1.9 * u[8]) ** 2)
    weight = edge / (1 + 2 * edge) if blur else 0.0
    color = np.array([flip, 1 + brightness, 1 + contrast, 1 + saturation, hue, gray, weight], dtype=np.float32)
    return View(_draw_box(spec, width, height, u[9:].tolist()), color)


def _draw_box(spec: ViewSpec, width: int, height: int, u: list[float]) -> Box:
    """A box of random area, ratio and place; the centred square where none of the tries lies in the image."""
    smallest, largest = spec.crop_scale
    low, high = (math.log(r) for r in spec.crop_ratio)
    for i in range(0, len(u), 4):
        area = width * height * (smallest + (largest - smallest) * u[i])
        ratio = math.exp(low + (high - low) * u[i + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(u[i + 2] * (width - w + 1)), int(u[i + 3] * (height - h + 1))
            return left, top, left + w, top + h
    return center_box(width, height)


def to_float(images: Tensor) -> Tensor:
    """uint8 (b, 3, h, w) in 0-255 -> float32 in [0, 1]."""
    return images.float().div_(255)


def apply_color(images: Tensor, color: Tensor) -> Tensor:
    """Flip, jitter, grey and blur, each image by its own parameters.

    Brightness, contrast, saturation, hue and grey, in this order, are affine in colour: together one 3 x 3 matrix and
    one offset an image, and one clamp at their end. Hue is a rotation about the axis of the greys, which turns HSV's
    hue by the same angle (to 0.01 turns) and equals HSV's change at thirds of a turn.

    Args:
        images: (b, 3, h, w) uint8.
        color: (b, 7) float32, rows of `View.color`.

    Returns:
        (b, 3, h, w) float32 in [0, 1].
    """
    x = to_float(images)
    flip, brightness, contrast, saturation, hue, gray, blur = color.to(x.device).unbind(1)  # (b,) each
    rows = flip.nonzero().squeeze(1)
    x[rows] = x[rows].flip(3)
    matrix = (brightness * contrast).view(-1, 1, 1) * _chroma_matrix(saturation, hue, gray)  # (b, 3, 3)
    offset = brightness * (1 - contrast) * (x.mean(dim=(2, 3)) @ x.new_tensor(GRAY))  # (b,)
    x = torch.baddbmm(offset.view(-1, 1, 1), matrix, x.flatten(2)).view_as(x).clamp_(0, 1)
    rows = blur.nonzero().squeeze(1)
    if len(rows) and min(x.shape[2:]) > 1:
        x[rows] = _blur(x[rows], blur[rows])
    return x


def _chroma_matrix(saturation: Tensor, hue: Tensor, gray: Tensor) -> Tensor:
    """(b, 3, 3): saturation, then hue, then grey; where nothing changes, exactly the unit matrix."""
    s, angle, g = saturation.view(-1, 1, 1), 2 * math.pi * hue.view(-1, 1, 1), gray.view(-1, 1, 1)
    eye = torch.eye(3, device=hue.device)
    luma = eye.new_tensor(GRAY).expand(3, 3)  # a colour to its grey
    turn = eye + (angle.cos() - 1) * (eye - 1 / 3) + angle.sin() * eye.new_tensor(QUARTER_TURN)  # Rodrigues
    matrix = turn + (1 - s) * (luma - turn)  # = turn @ (s + (1 - s) luma), as a turn leaves greys alone
    return matrix + g * (luma @ matrix - matrix)


def _blur(x: Tensor, weight: Tensor) -> Tensor:
    """Separable 3 x 3 blur with kernel (w, 1 - 2w, w), w (b,)."""
    w = weight.view(-1, 1, 1, 1)
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    y = (x[:, :, :-2] + x[:, :, 2:]).mul_(w).addcmul_(1 - 2 * w, x[:, :, 1:-1])  # in place: passes over memory count
    return (y[..., :-2] + y[..., 2:]).mul_(w).addcmul_(1 - 2 * w, y[..., 1:-1])
