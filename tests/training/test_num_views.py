"""How many views are cached: operations counted by hand, the stated rates, and budgets."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import torch
from torch import nn

from mecoq_faiss.backbone.network import Backbone, create_backbone
from mecoq_faiss.training import num_views
from mecoq_faiss.training.num_views import (
    NUMBERS,
    check_budget,
    default_views,
    forward_operations,
    forward_rate,
    most_views,
    views_in_budget,
)


def test_operations_are_those_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    # 36 places x 4 filters x 27 weights, then 144 x 5; each a multiplication and an addition
    assert forward_operations(Backbone(net, 5), 8) == 2 * (36 * 4 * 27 + 144 * 5)
    assert forward_operations(create_backbone("pixels", image_size=8), 8) == 0


def test_operations_are_counted_outside_of_compiled_code(monkeypatch):
    monkeypatch.setenv("CXX", "any")
    monkeypatch.setattr(torch, "compile", lambda call, *more, **options: lambda x: pytest.fail("compiled"))
    backbone = Backbone(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 5)
    backbone.compile_net()
    assert forward_operations(backbone, 2) == 120


@pytest.mark.parametrize(
    ("operations", "images", "cpu", "gpu"),
    [
        (8.17e9, 7000, 6, 28),  # resnet50 at 224 px: 42,000 views, at 28 a second 25 minutes
        (8.17e9, 50_000, 4, 10),  # never fewer
        (8.17e9, 300, 40, 40),
        (2.09e8, 5000, 40, 40),  # MobileNetV1 at 96 px
        (0, 5000, 40, 40),
        (2.09e8, 50_000, 10, 10),
    ],
)
def test_the_default_follows_the_device(operations, images, cpu, gpu, monkeypatch):
    monkeypatch.setattr(num_views, "forward_operations", lambda backbone, size: operations)
    backbone = create_backbone("pixels", image_size=8)
    assert default_views(images, backbone, 8, "cpu") == cpu
    assert default_views(images, backbone, 8, "cuda:1") == most_views(images) == gpu


def test_a_real_network():
    pytest.importorskip("timm")
    backbone = create_backbone("timm:mobilenetv1_100", "none", image_size=96)
    assert 2.0e8 < forward_operations(backbone, 96) < 2.2e8  # twice the 569 M of 224 px, times (96 / 224) ** 2
    assert default_views(5000, backbone, 96, "cpu") == 40


@pytest.mark.parametrize(
    ("seconds", "views"), [(1, 2), (200, 2), (299, 2), (300, 3), (700, 6), (799, 6), (999, 8), (1e9, 40)]
)
def test_a_budget_is_kept_down_to_a_pair(seconds, views):
    assert views_in_budget(seconds, images=1000, rate=10.0) == views


def test_numbers_of_a_budget_are_few_so_that_a_second_measurement_gives_the_same():
    assert NUMBERS[0] == 2 and NUMBERS[-1] == 40
    assert all(b > 1.19 * a for a, b in pairwise(NUMBERS))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_no_budget(seconds):
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        check_budget(seconds)
    check_budget(None)


def test_the_rate_is_that_of_the_network(monkeypatch):
    class Slow(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            time.sleep(0.01 * len(x))
            return x.flatten(1)

    seen: list[int] = []
    monkeypatch.setattr(num_views, "RATE_SECONDS", 0.3)
    monkeypatch.setattr(num_views, "GPU_IMAGES", 5)
    rate = forward_rate(Backbone(Slow(), 192), 8, "cpu", bf16=False)
    assert 50 < rate < 101  # 0.01 s an image, and what a busy machine adds
    assert set(seen) == {5}
