"""Training: random views a second and a core into the view cache, and steps of the head on cached features."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.scale.cell import Cell, Options
from benchmarks.scale.encoding import BACKBONES, IMAGES
from benchmarks.speed.madeup import jpegs
from benchmarks.speed.measure import Row, use_threads

BATCH, VIEWS, STEPS = 512, 10, 40


def cells(options: Options) -> Iterator[Cell]:
    for backbone in options.backbones:
        images = max(1, IMAGES[backbone] // VIEWS // options.divisor)
        job = {"backbone": backbone, "image_size": BACKBONES[backbone], "images": images}
        yield Cell("views into the cache", job, "training:views", [{**job, "folder": options.folder}])
    job = {"batch": BATCH, "steps": STEPS // min(options.divisor, STEPS // 2)}
    yield Cell("steps on cached features", job, "training:steps", [job])


def views(backbone: str, image_size: int, images: int, folder: str | None) -> Iterator[Row]:
    """Files to the features of `VIEWS` random views of each image, as `train` makes them, decoding in the process."""
    from mecoq_faiss import MeCoQ, ModelConfig
    from mecoq_faiss.backbone.view_cache import cached_view_features
    from mecoq_faiss.data.sources import ImageSource, open_source
    from mecoq_faiss.data.views import ViewSpec
    from mecoq_faiss_cli.memory import keep_freed_memory

    keep_freed_memory()
    use_threads(1)
    model = MeCoQ(ModelConfig(backbone=backbone, weights="none", image_size=image_size))
    with tempfile.TemporaryDirectory(dir=folder) as own:

        def cache(source: object, number: int) -> None:
            assert isinstance(source, ImageSource)
            cached_view_features(
                source, model.backbone, size=image_size, spec=ViewSpec(), num_views=VIEWS, seed=number, workers=0,
                folder=Path(own),
            )  # fmt: skip

        cache(open_source(jpegs(Path(own) / "first", 2, 2 * image_size), "train"), 0)
        source = open_source(jpegs(Path(own) / "jpegs", images, 2 * image_size), "train")
        yield {}
        cache(source, 1)
        yield {"n": images * VIEWS}


def steps(batch: int, steps: int) -> Iterator[Row]:
    """Steps of the default head on features of width 1024, with the default memory; features are not preserved."""
    import torch

    from benchmarks.speed.steps import SamePair, make_trainer, run
    from benchmarks.speed.train import FEATURES
    from mecoq_faiss import MeCoQ, ModelConfig, TrainConfig
    from mecoq_faiss.training.pairs import Pair

    use_threads(1)
    pair = Pair(torch.rand(batch, FEATURES), torch.rand(batch, FEATURES))
    model = MeCoQ(ModelConfig(backbone="features", weights="none", feature_dim=FEATURES))
    config = TrainConfig(batch_size=batch, memory_start_epoch=1, preserve_weight=0.0)
    run(make_trainer(model, SamePair(pair, 2), config))
    trainer = make_trainer(model, SamePair(pair, steps), config)
    yield {}
    run(trainer)
    yield {"n": steps}
