"""Runs of a training on however many ranks there are: whole, lost and continued, asked to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from mecoq_faiss import Interrupted, ModelConfig, TrainConfig, register_backbone, train
from mecoq_faiss.runtime.ranks import joined
from mecoq_faiss.training.contrast import Contrast
from tests.training.lost import lost_after

PIXELS = ModelConfig(backbone="pixels", weights="none", image_size=6, hidden=12, D=8, M=2, nbits=4)
READY = ModelConfig(hidden=12, D=8, M=2, nbits=4)
LEARNS = ModelConfig("two-layers", "none", trainable_layers=1, image_size=6, hidden=12, D=8, M=2, nbits=4)
NORMED = ModelConfig("normed", "none", trainable_layers=-1, image_size=6, hidden=12, D=8, M=2, nbits=4)
STEPS = TrainConfig(epochs=17, batch_size=11, memory_size=20, memory_start_epoch=3)  # 51 of 27 items, the last of 5
SHORT = TrainConfig(epochs=2, batch_size=11, memory_size=20, memory_start_epoch=1, workers=0)
PRESERVES: dict[str, Any] = {"D": 10, "M": 2, "nbits": 4, "projection": "linear", "codes": "additive"}
KINDS: dict[str, tuple[str, ModelConfig, TrainConfig]] = {
    "views": ("views.npy", READY, STEPS),
    "adam on vectors": ("vectors.npy", ModelConfig(hidden=12, D=8, M=2, nbits=4, metric="aqs"), SHORT),
    "sgd": ("views.npy", READY, TrainConfig(**{**vars(STEPS), "optimizer": "sgd", "lr": 0.05})),
    "the paper's": (
        "views.npy",
        READY,
        TrainConfig(**{**vars(STEPS), "asymmetric_share": 0.0, "preserve_weight": 0.0, "polish_rounds": 0}),
    ),
    "additive": ("views.npy", ModelConfig(hidden=12, D=8, M=2, nbits=4, codes="additive"), SHORT),
    "data": ("views.npy", READY, TrainConfig(**{**vars(SHORT), "codebook_init": "data"})),
    "view cache": ("images", PIXELS, SHORT),
    "fresh views": ("images", PIXELS, TrainConfig(**{**vars(SHORT), "view_cache": False})),
    "preserving": ("vectors.npy", ModelConfig(metric="l2", **PRESERVES), STEPS),
    "preserving with queries": ("images", ModelConfig("pixels", "none", image_size=6, metric="ip", **PRESERVES), SHORT),
    "layers that learn": ("images", LEARNS, TrainConfig(**{**vars(SHORT), "preserve_weight": 0.0})),
    "batch norm": ("images", NORMED, TrainConfig(**{**vars(SHORT), "preserve_weight": 0.0, "optimizer": "sgd"})),
}


class Normed(nn.Sequential):
    """A network whose layers, which learn, have batch norm."""

    feature_dim = 8

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 4, 3, bias=False)
        super().__init__(
            convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8)
        )


class TwoLayers(nn.Sequential):
    """A network whose top layer learns."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(108, 8), nn.Tanh(), nn.Linear(8, 8))


register_backbone("two-layers", TwoLayers)
register_backbone("normed", Normed)


def make_data(folder: Path) -> None:
    """27 items with views, 27 vectors, 27 images of which two cannot be read."""
    rng = np.random.default_rng(0)
    np.save(folder / "views.npy", rng.normal(size=(27, 3, 10)).astype(np.float32))
    np.save(folder / "vectors.npy", rng.normal(size=(27, 10)).astype(np.float32))
    np.save(folder / "held-out.npy", rng.normal(size=(25, 10)).astype(np.float32))
    (folder / "images").mkdir()
    for i in range(27):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / "images" / f"{i:02}.png")
    for i in (3, 4):
        (folder / "images" / f"{i:02}.png").write_bytes(b"broken")


def whole(folder: Path, kind: str, ranks: str) -> dict[str, Any]:
    """The weights of a whole run `KIND-RANKS`, as the call returns them."""
    data, model, config = KINDS[kind]
    held_out = folder / "held-out.npy" if kind == "data" else None
    queries = folder / data if kind == "preserving with queries" else None
    made = train(
        folder / data, folder / f"{kind}-{ranks}", model, config, device="cpu", validation=held_out,
        queries_sample=queries,
    )  # fmt: skip
    return {name: tensor.numpy() for name, tensor in made.state_dict().items()}


def lost(folder: Path, name: str, steps: int) -> None:
    """A run of views that ends without a word after so many steps."""
    with lost_after(steps):
        train(folder / "views.npy", folder / name, READY, STEPS, device="cpu")


def stopped(folder: Path, name: str, steps: int) -> str:
    """A run of views that is asked to stop after so many steps, by a signal to its last rank; its last words."""
    step, done = Contrast.after_step, []

    def after_step(self: Contrast) -> None:
        step(self)
        done.append(1)
        if len(done) == steps and self.ranks.rank == self.ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Contrast.after_step = after_step  # type: ignore[method-assign]
    try:
        train(folder / "views.npy", folder / name, READY, STEPS, device="cpu")
    except Interrupted as error:
        return str(error)
    finally:
        Contrast.after_step = step  # type: ignore[method-assign]
    return ""


def resumed(folder: Path, name: str) -> None:
    train(folder / "views.npy", folder / name, resume=True, device="cpu")


def on_each_rank(folder: Path) -> dict[str, Any]:
    """All of the above, on ranks that are together already."""
    with joined("cpu") as (ranks, _):
        size = ranks.size
    found: dict[str, Any] = {kind: whole(folder, kind, f"on-{size}") for kind in KINDS}
    lost(folder, f"lost-on-{size}", 20)
    resumed(folder, f"lost-on-{size}")
    resumed(folder, f"lost-on-{size}")  # is finished already
    lost(folder, f"lost-on-{size}-then-alone", 20)
    found["stopped"] = stopped(folder, f"stopped-on-{size}", 20)
    resumed(folder, f"stopped-on-{size}")
    found["stopped then alone"] = stopped(folder, f"stopped-on-{size}-then-alone", 20)
    resumed(folder, "lost-alone-then-more")
    return found
