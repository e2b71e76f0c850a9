"""Training: what the code memory costs, and what the view cache saves.

python -m benchmarks.speed train [--data SRC] [--backbone NAME] [--image-size N]

The memory's cost is the time of a step and the bytes kept for it with N_M slots, over none: once for a step on cached
features, whose head is all that there is to do, once for a step that runs the frozen backbone, as every step of the
paper does (Table 3: +6.6 % and 22 MB at 896 slots and batch 128). The cache's limit is the bare backbone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.encode import bare
from benchmarks.speed.madeup import jpegs
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, plot, show, use_threads
from benchmarks.speed.steps import FINE_TUNING, SamePair, fine_tuning_costs, make_trainer, run
from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
from mecoq_faiss.backbone.view_cache import FORWARD_IMAGES, cached_view_features
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import ViewSpec
from mecoq_faiss.training.pairs import CachedPairs, ImagePairs, Pair
from mecoq_faiss.training.trainer import Trainer
from mecoq_faiss_cli.memory import keep_freed_memory

PAPER_SLOTS, PAPER_BATCH = 896, 128
PAPER_TIME, PAPER_BYTES = 0.066, 22e6
FEATURES = 1024


def cpu_clock(a: argparse.Namespace) -> Callable[[], float]:
    """CPU time where all of a step happens on one thread, else wall time."""
    return time.process_time if a.threads == 1 and a.device == "cpu" else time.perf_counter


def memory_config(slots: int, batch: int) -> TrainConfig:
    return TrainConfig(batch_size=batch, memory_size=slots, memory_start_epoch=1, preserve_weight=0.0)


def filled(trainer: Trainer) -> Trainer:
    """The memory full, so that a step costs what it will cost."""
    memory: Any = trainer.step.memory  # type: ignore[attr-defined]
    if memory is not None:
        memory.slots.copy_(torch.softmax(torch.randn_like(memory.slots), dim=-1))
        memory.pushed.fill_(memory.size)
    return trainer


def kept_bytes(trainer: Trainer) -> int:
    """Bytes of the memory's slots and of all that a step keeps for its backward pass."""
    objective: Any = trainer.step
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = objective(next(trainer.pairs.batches(1)), 1)
    if objective.memory is not None:
        slots = objective.memory.slots.untyped_storage()
        seen[slots.data_ptr()] = slots.nbytes()
    del loss
    return sum(seen.values())


def memory_costs(
    a: argparse.Namespace, model_config: ModelConfig, view: tuple[int, ...], slots: list[int], steps: int
) -> list[Row]:
    """Rows over N_M of a step on pairs of `view`s, beside none."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.rand(PAPER_BATCH, *view, generator=generator).to(a.device) for _ in range(2)]
    pairs = SamePair(Pair(views[0], views[1]), steps)
    model = MeCoQ(model_config)
    trainers = {n: filled(make_trainer(model, pairs, memory_config(n, PAPER_BATCH))) for n in [0, *slots]}
    seconds = in_turn({str(n): lambda t=t: run(t) for n, t in trainers.items()}, a.repeats, cpu_clock(a))  # type: ignore[misc]
    none, nothing = seconds["0"], kept_bytes(trainers[0])
    return [
        {
            "N_M": n,
            "ms a step": 1000 * seconds[str(n)] / steps,
            "more time": seconds[str(n)] / none - 1,
            "more MB": (kept_bytes(trainer) - nothing) / 1e6,
        }
        for n, trainer in trainers.items()
    ]


def batch_costs(a: argparse.Namespace, model_config: ModelConfig) -> list[Row]:
    """Milliseconds an image of a step on features, over the batch."""
    rows: list[Row] = []
    for batch in a.batches:
        views = [torch.rand(batch, FEATURES, device=a.device) for _ in range(2)]
        pairs = SamePair(Pair(views[0], views[1]), a.steps)
        trainer = filled(make_trainer(MeCoQ(model_config), pairs, memory_config(384, batch)))
        seconds = in_turn({"step": lambda t=trainer: run(t)}, a.repeats, cpu_clock(a))["step"]  # type: ignore[misc]
        rows.append(
            {"batch": batch, "ms a step": 1000 * seconds / a.steps, "us an image": 1e6 * seconds / a.steps / batch}
        )
    return rows


def cache_costs(a: argparse.Namespace, model_config: ModelConfig, source: ImageSource) -> Row:
    """The view cache's creation beside the bare backbone; an epoch from it beside one that runs the backbone."""
    model = MeCoQ(model_config).to(a.device)
    encoder, spec = TorchEncoder(model, a.device), ViewSpec()
    made: dict[str, np.ndarray] = {}

    def create(bf16: bool = False) -> None:
        with tempfile.TemporaryDirectory() as folder:
            features, _ = cached_view_features(
                source, model.backbone, size=a.image_size, spec=spec, num_views=a.views, seed=0, workers=a.workers,
                device=a.device, folder=Path(folder), bf16=bf16,
            )  # fmt: skip
            made["features"] = np.array(features)

    views = len(source) * a.views
    sides = {"bare": lambda: bare(encoder, views, FORWARD_IMAGES), "create": create}
    create_s = in_turn(sides | {"bf16": lambda: create(bf16=True)}, a.repeats)
    create_cpu = in_turn(sides, 1, time.process_time)  # without the workers': what cannot be overlapped
    batch = min(PAPER_BATCH, len(source))
    loader = ImageLoader(source, a.image_size, spec=spec, workers=a.workers)
    from_images = make_trainer(model, ImagePairs(loader, batch, 0, a.device), memory_config(384, batch))
    from_cache = make_trainer(model, CachedPairs(made["features"], batch, 0, a.device), memory_config(384, batch))
    epoch_s = in_turn({"images": lambda: run(from_images), "cache": lambda: run(from_cache)}, a.repeats)
    return {
        "images": len(source),
        "views": a.views,
        "bare_views_per_s": views / create_s["bare"],
        "cache_views_per_s": views / create_s["create"],
        "creation / bare": create_s["bare"] / create_s["create"],
        "CPU time of this process": create_cpu["bare"] / create_cpu["create"],
        "creation in bf16 / in float32": create_s["create"] / create_s["bf16"],
        "epoch_from_images_s": epoch_s["images"],
        "epoch_from_cache_s": epoch_s["cache"],
        "images / cache": epoch_s["images"] / epoch_s["cache"],
    }


def main() -> None:
    parser = arguments(__doc__, "train")
    parser.add_argument("--data", help="a folder or tar of images (default: made-up JPEGs)")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--views", type=int, default=10, help="cached, of each image")
    parser.add_argument("--backbone", default="mobilenet_v2", help="its weights do not matter here")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--slots", type=int, nargs="+", default=[128, 384, 896, 4096, 16384, 65536])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--steps", type=int, default=20, help="on features, a measurement")
    parser.add_argument("--fine-tuning", nargs="*", choices=list(FINE_TUNING), default=list(FINE_TUNING))
    parser.add_argument("--tuning-batch", type=int, default=64, help="where the backbone learns")
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    keep_freed_memory()  # as the command does
    use_threads(a.threads)
    ready = ModelConfig(backbone="features", weights="none", feature_dim=FEATURES)
    network = ModelConfig(backbone=a.backbone, weights="none", image_size=a.image_size)
    head = memory_costs(a, ready, (FEATURES,), a.slots, a.steps)
    show(f"memory, batch {PAPER_BATCH}, a step on features", head)
    whole = memory_costs(a, network, (3, a.image_size, a.image_size), [PAPER_SLOTS], 1)
    show(f"memory, batch {PAPER_BATCH}, a step that runs {a.backbone}", whole)
    batches = batch_costs(a, ready)
    show("a step on features, 384 slots", batches)
    tuning = fine_tuning_costs(a)
    show(f"a step that trains {a.backbone}, batch {a.tuning_batch}", tuning)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(a.data or jpegs(Path(folder) / "jpegs", a.images, 2 * a.image_size), "train")
        if not isinstance(source, ImageSource):
            parser.error(f"{a.data} holds no images")
        source = source.subset(np.sort(np.random.default_rng(0).permutation(len(source))[: a.images]))
        cache = cache_costs(a, network, source)
    show("view cache", [cache])
    goals = [
        goal(
            "memory of 896 slots, share of time added to a step with its backbone",
            whole[1]["more time"],
            at_most=PAPER_TIME,
        ),
        goal("memory of 896 slots, MB added", whole[1]["more MB"], at_most=PAPER_BYTES / 1e6),
        goal("view cache, creation / bare backbone", cache["creation / bare"], at_least=0.9),
        goal("epoch that runs the backbone / epoch from the cache", cache["images / cache"], at_least=50),
    ]
    goals += [
        goal("memory of 896 slots, share of time added to a step on features", row["more time"], at_most=PAPER_TIME)
        for row in head
        if row["N_M"] == PAPER_SLOTS
    ]
    curve = [r["N_M"] for r in head], [r["ms a step"] for r in head]
    plot(a.out.with_suffix(".png"), {f"features, batch {PAPER_BATCH}": curve}, "slots N_M", "ms a step", "")
    curve = [r["batch"] for r in batches], [r["us an image"] for r in batches]
    plot(a.out.with_name(a.out.stem + "-batch.png"), {"features, 384 slots": curve}, "batch", "us an image")
    finish(
        a.out,
        a,
        goals,
        memory_on_features=head,
        memory_with_backbone=whole,
        batches=batches,
        fine_tuning=tuning,
        cache=cache,
    )
