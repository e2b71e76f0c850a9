"""Images a second and a core: made-up JPEG files to codes by whole processes side by side, and the bare backbone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.scale.cell import Cell, Options
from benchmarks.speed.madeup import jpegs
from benchmarks.speed.measure import Row, use_threads

BACKBONES = {"mobilenet_v3_small": 96, "timm:mobilenetv1_100": 96, "resnet18": 224}  # name -> pixels; random weights
IMAGES = {"mobilenet_v3_small": 512, "timm:mobilenetv1_100": 384, "resnet18": 64}  # of each process
JPEG_SIDE = 256


def cells(options: Options) -> Iterator[Cell]:
    for backbone in options.backbones:
        job = {"backbone": backbone, "image_size": BACKBONES[backbone], "images": IMAGES[backbone] // options.divisor}
        yield Cell("bare backbone", job, "encoding:bare_share", [job])
        for workers in options.workers:
            jobs = [{**job, "folder": options.folder}] * workers
            yield Cell("files to codes", {**job, "workers": workers}, "encoding:encode_share", jobs, 1.5e9 * workers)


def bare_share(backbone: str, image_size: int, images: int) -> Iterator[Row]:
    """The network as its library gives it, on tensors that are in memory."""
    from benchmarks.speed.encode import bare

    encoder = _encoder(backbone, image_size)
    bare(encoder, min(images, 64))
    yield {}
    bare(encoder, images)
    yield {"n": images}


def encode_share(backbone: str, image_size: int, images: int, folder: str | None) -> Iterator[Row]:
    """`mecoq_faiss.encode` as a command runs it, decoding in the same process."""
    from mecoq_faiss import encode

    with tempfile.TemporaryDirectory(dir=folder) as own:
        encoder = _encoder(backbone, image_size)
        encode(encoder, str(jpegs(Path(own) / "first", min(images, 64), JPEG_SIDE)), Path(own) / "first.h5", workers=0)
        source = str(jpegs(Path(own) / "jpegs", images, JPEG_SIDE))
        yield {}
        encode(encoder, source, Path(own) / "codes.h5", workers=0)
        yield {"n": images}


def _encoder(backbone: str, image_size: int):  # type: ignore[no-untyped-def]  # torch comes only where it is needed
    from mecoq_faiss import MeCoQ, ModelConfig
    from mecoq_faiss.bundle.torch_encoder import TorchEncoder
    from mecoq_faiss_cli.memory import keep_freed_memory

    keep_freed_memory()  # as the command does
    use_threads(1)
    return TorchEncoder(MeCoQ(ModelConfig(backbone=backbone, weights="none", image_size=image_size)), "cpu")
