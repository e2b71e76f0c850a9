"""Squares cut out of images and resized, against PIL done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss.data.crop import center_box, crop, fixed_view


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_crop_is_pil_on_the_cut_out_box():
    image = photo(40, 30)
    by_hand = np.asarray(image.crop((5, 7, 33, 28)).resize((10, 10), Image.Resampling.BICUBIC))
    x = crop(image, (5, 7, 33, 28), 10)
    assert x.dtype == np.uint8 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, by_hand.transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height", "box"), [(40, 30, (5, 0, 35, 30)), (30, 40, (0, 5, 30, 35))])
def test_fixed_view_is_the_centerd_square(width, height, box):
    image = photo(width, height)
    by_hand = np.asarray(image.crop(box).resize((12, 12), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(fixed_view(image, 12), by_hand)


def test_center_box_of_odd_differences():
    assert center_box(5, 2) == (1, 0, 3, 2)
    assert center_box(2, 5) == (0, 1, 2, 3)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = photo(8, 8)
    np.testing.assert_array_equal(fixed_view(image, 8), np.asarray(image).transpose(2, 0, 1))
