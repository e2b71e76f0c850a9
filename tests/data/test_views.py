"""Views: torchvision's functions one by one, counts against the stated probabilities, PIL done by hand."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from mecoq_faiss.data.crop import crop
from mecoq_faiss.data.views import ViewSpec, apply_color, draw_view, to_float

NO_COLOR = {"flip": 0, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "gray": 0, "blur": 0}
LUMA = 2e-4  # torchvision's luma weights add up to 0.9999


def color(n: int = 1, **changes: float) -> torch.Tensor:
    return torch.tensor([[float(value) for value in (NO_COLOR | changes).values()]]).repeat(n, 1)


def images(n: int = 1, low: int = 0, high: int = 256, size: tuple[int, int] = (9, 14), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, *size), generator=generator, dtype=torch.uint8)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def many_views():
    return [draw_view(ViewSpec(), 400, 300, (5, 0, row)) for row in range(4000)]


# Drawing


def test_a_key_is_a_view_and_every_part_of_it_counts():
    first = draw_view(ViewSpec(), 400, 300, (1, 2, 3))
    torch.rand(7)
    np.random.default_rng().random()
    again = draw_view(ViewSpec(), 400, 300, (1, 2, 3))
    assert first.box == again.box
    np.testing.assert_array_equal(first.color, again.color)
    boxes = {draw_view(ViewSpec(), 400, 300, key).box for key in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]}
    assert len(boxes) == 4


def test_crop_boxes_follow_the_stated_distribution(many_views):
    left, top, right, bottom = np.array([view.box for view in many_views]).T
    w, h = right - left, bottom - top
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    share, ratio = w * h / (400 * 300), w / h
    rounding = 0.01  # sides are whole pixels
    assert share.min() > 0.5 - rounding and share.max() < 1 + rounding
    assert ratio.min() > 3 / 4 - rounding and ratio.max() < 4 / 3 + rounding
    inside = (w < 400) & (h < 300)
    # left / (free width) is uniform: its mean is 1/2 and its deciles hold a tenth each
    for place in ((left / (400 - w).clip(1))[inside & (w < 360)], (top / (300 - h).clip(1))[inside & (h < 260)]):
        counts, _ = np.histogram(place, bins=5, range=(0, 1))
        np.testing.assert_allclose(counts / len(place), 0.2, atol=0.03)


def test_area_share_is_uniform_where_every_try_fits():
    spec = ViewSpec(crop_scale=(0.2, 0.4), crop_ratio=(0.9, 1.1))
    boxes = np.array([draw_view(spec, 300, 300, (0, 0, row)).box for row in range(3000)])
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 300**2
    assert share.mean() == pytest.approx(0.3, abs=0.005)
    counts, _ = np.histogram(share, bins=4, range=(0.2, 0.4))
    np.testing.assert_allclose(counts / 3000, 0.25, atol=0.03)


def test_probabilities_and_strengths_by_counting(many_views):
    flip, *factors, hue, gray, blur = np.array([view.color for view in many_views]).T
    assert flip.mean() == pytest.approx(0.5, abs=0.03)
    assert gray.mean() == pytest.approx(0.2, abs=0.03)
    assert (blur > 0).mean() == pytest.approx(0.5, abs=0.03)
    jittered = hue != 0
    assert jittered.mean() == pytest.approx(0.7, abs=0.03)
    for strength, values in zip((0.4, 0.4, 0.4, 0.1), (*(f - 1 for f in factors), hue), strict=True):
        assert not values[~jittered].any()
        assert np.abs(values).max() <= strength * 1.0001
        assert values[jittered].std() == pytest.approx(strength / 3**0.5, rel=0.05)  # uniform
    together = np.corrcoef([flip, *factors, hue, gray, blur > 0])
    assert np.abs(together - np.eye(7)).max() < 0.06  # drawn apart from each other


@pytest.mark.parametrize("name", ["flip", "jitter_p", "gray", "blur"])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_0_and_1(name, p):
    column = {"flip": 0, "jitter_p": 4, "gray": 5, "blur": 6}[name]
    drawn = [draw_view(replace(ViewSpec(), **{name: p}), 50, 50, (0, 0, i)).color[column] != 0 for i in range(40)]
    assert all(drawn) if p else not any(drawn)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (50, 1), (2, 3), (100, 20)])
def test_tiny_and_long_images_give_whole_views(width, height):
    for row in range(30):
        view = draw_view(ViewSpec(), width, height, (0, 0, row))
        left, top, right, bottom = view.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        x = crop(photo(width, height), view.box, 8)
        out = apply_color(torch.from_numpy(x)[None], torch.from_numpy(view.color)[None])
        assert out.shape == (1, 3, 8, 8) and out.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)])
def test_color_of_the_smallest_views(size):
    out = apply_color(images(size=size), color(flip=1, brightness=0.8, hue=0.1, blur=0.25))
    assert out.shape == (1, 3, *size) and out.isfinite().all()


# Colour, against torchvision on floats (on uint8 it rounds and floors in between)


def test_no_change_gives_the_image_exactly():
    x = images(3)
    assert torch.equal(apply_color(x, color(3)), x.float() / 255)
    assert torch.equal(to_float(x), x.float() / 255)


def test_the_input_is_left_alone():
    x = images(2)
    before = x.clone()
    apply_color(x, color(2, flip=1, brightness=0.5, blur=0.2))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"flip": 1}, lambda x: F.horizontal_flip(x)),
        ({"brightness": 0.7}, lambda x: F.adjust_brightness(x, 0.7)),
        ({"brightness": 1.25}, lambda x: F.adjust_brightness(x, 1.25)),
        ({"contrast": 0.6}, lambda x: F.adjust_contrast(x, 0.6)),
        ({"contrast": 1.4}, lambda x: F.adjust_contrast(x, 1.4)),
        ({"saturation": 0.6}, lambda x: F.adjust_saturation(x, 0.6)),
        ({"saturation": 1.4}, lambda x: F.adjust_saturation(x, 1.4)),
        ({"gray": 1}, lambda x: F.rgb_to_grayscale(x, num_output_channels=3)),
        ({"hue": 1 / 3}, lambda x: F.adjust_hue(x, 1 / 3)),
        ({"hue": -1 / 3}, lambda x: F.adjust_hue(x, -1 / 3)),
    ],
)
def test_each_change_is_torchvisions(changes, reference):
    x = images(2, low=60, high=196)  # no value leaves [0, 1]
    expected = torch.stack([reference(image) for image in to_float(x)])
    torch.testing.assert_close(apply_color(x, color(2, **changes)), expected, atol=LUMA, rtol=0)


def test_changes_in_their_order():
    x = images(2, low=80, high=160)
    expected = []
    for image in to_float(x):
        image = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, 1.2), 0.8), 1.3)
        expected.append(F.adjust_hue(image, 1 / 3))
    out = apply_color(x, color(2, brightness=1.2, contrast=0.8, saturation=1.3, hue=1 / 3))
    torch.testing.assert_close(out, torch.stack(expected), atol=LUMA, rtol=0)
    gray = apply_color(x, color(2, brightness=1.2, contrast=0.8, saturation=1.3, hue=1 / 3, gray=1))
    torch.testing.assert_close(gray, F.rgb_to_grayscale(out, num_output_channels=3), atol=LUMA, rtol=0)


def test_values_are_clamped():
    out = apply_color(images(), color(brightness=1.4, contrast=1.4))
    assert out.min() >= 0 and out.max() == 1


def test_hue_turns_hsvs_hue_by_the_same_angle():
    x = images(low=70, high=180)
    for turn in (0.1, -0.1, 0.03, 0.25):
        out = apply_color(x, color(hue=turn))[0].flatten(1).T
        for before, after in zip(to_float(x)[0].flatten(1).T.tolist(), out.tolist(), strict=True):
            h0, s0, _ = colorsys.rgb_to_hsv(*before)
            h1, _, _ = colorsys.rgb_to_hsv(*after)
            if s0 > 0.05:
                assert (h1 - h0 - turn + 0.5) % 1 - 0.5 == pytest.approx(0, abs=0.01)


def test_hue_leaves_grays_and_a_full_turn_leaves_all():
    gray = images()[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(apply_color(gray, color(hue=0.3)), to_float(gray), atol=1e-6, rtol=0)
    torch.testing.assert_close(apply_color(images(), color(hue=1)), to_float(images()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions(sigma):
    x = images(2)
    edge = np.exp(-0.5 / sigma**2)
    out = apply_color(x, color(2, blur=edge / (1 + 2 * edge)))
    torch.testing.assert_close(out, F.gaussian_blur(to_float(x), [3, 3], [sigma, sigma]), atol=1e-6, rtol=0)


def test_blur_weights_are_those_of_sigma_0_1_to_2():
    drawn = np.array([draw_view(ViewSpec(blur=1), 9, 9, (0, 0, row)).color[6] for row in range(2000)], np.float64)
    edge = drawn / (1 - 2 * drawn)
    sigma = np.sqrt(-0.5 / np.log(edge))
    assert sigma.min() >= 0.0999 and sigma.max() <= 2.0001
    counts, _ = np.histogram(sigma, bins=4, range=(0.1, 2))
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.04)


def test_a_batch_is_its_images_one_by_one():
    x = images(12, size=(16, 16))
    parameters = torch.from_numpy(np.stack([draw_view(ViewSpec(), 16, 16, (0, 0, row)).color for row in range(12)]))
    assert len(parameters.unique(dim=0)) == 12
    alone = torch.cat([apply_color(x[i : i + 1], parameters[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(apply_color(x, parameters), alone, atol=1e-6, rtol=0)
