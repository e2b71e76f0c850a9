"""How many random views of each image are cached: as many as the device's arithmetic, or a time, allows.

The more the better, and their forward passes are most of a first training's work.
"""

from __future__ import annotations

import math
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from mecoq_faiss.backbone.network import Backbone, inference_part
from mecoq_faiss.data.views import to_float

FEWEST, MOST = 4, 40  # without being told a time; what 5, 10, 20 and 40 views gain is in docs/findings.md
ALL_VIEWS = 200_000
# About half an hour for two threads of a CPU: resnet50 at 224 px, 8.2e9 operations a view, gives 14 views a second on
# each. Light networks are less efficient (MobileNetV1 at 96 px: 270 views, 2.1e8 operations), and need far less.
CPU_OPERATIONS = 4e14
NUMBERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40)  # of a budget: the next measurement chooses the same again
GPU_IMAGES, RATE_SECONDS = 64, 1.0  # a batch, and the least time, of a measurement


def most_views(images: int) -> int:
    """On a GPU: 10 to 40, and 200,000 in all where that lies between."""
    return min(MOST, max(10, ALL_VIEWS // images))


def default_views(images: int, backbone: Backbone, size: int, device: str) -> int:
    """What follows from the device alone: on a CPU the arithmetic is bounded, down to 4 views of each image."""
    most = most_views(images)
    if torch.device(device).type != "cpu":
        return most
    operations = images * forward_operations(backbone, size)
    return max(FEWEST, min(most, int(CPU_OPERATIONS / operations))) if operations else most


def views_in_budget(seconds: float, images: int, rate: float) -> int:
    """How many of each image `rate` views a second give in a time: the largest of `NUMBERS`, at least 2, a pair."""
    return max((number for number in NUMBERS if number * images <= seconds * rate), default=NUMBERS[0])


def check_budget(seconds: float | None) -> None:
    """ValueError for a time that is not a positive number of seconds."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"budget={seconds} must be a positive number of seconds")


@torch.no_grad()
def forward_operations(backbone: Backbone, size: int) -> int:
    """Multiplications and additions of one image (3, size, size) through the network, of its large operators."""
    image = torch.zeros(1, 3, size, size, device=backbone.mean.device)
    with FlopCounterMode(display=False) as counter:
        backbone.net.forward(image)  # not through torch.compile
    return counter.get_total_flops()


@torch.inference_mode()
def forward_rate(backbone: Backbone, size: int, device: str, bf16: bool) -> float:
    """Views a second through the network on `device`, measured on random pixels for about a second.

    Decoding runs beside it on other cores; where there are none, the cache comes slower.
    """
    ready = backbone.to(device).for_inference(size)
    images = torch.randint(0, 256, (GPU_IMAGES, 3, size, size), generator=torch.Generator().manual_seed(0))
    images = images[: inference_part(images)].to(device, torch.uint8)

    def run() -> None:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            ready(to_float(images)).cpu()  # waits for a GPU

    run()  # allocates, compiles
    runs, started = 0, time.perf_counter()
    while not runs or time.perf_counter() - started < RATE_SECONDS:
        run()
        runs += 1
    return runs * len(images) / (time.perf_counter() - started)
