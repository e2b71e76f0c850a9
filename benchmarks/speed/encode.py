"""Encoding: image files to codes beside the bare backbone on ready tensors, and the parts of one query.

python -m benchmarks.speed encode [--data SRC] [--backbone NAME] [--image-size N]

The limit is the backbone as its library gives it, on tensors of the same batch size that are in memory already.
Decoding runs on worker processes: with one thread for torch, on the cores that are left.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.madeup import jpegs
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, plot, show, use_threads
from mecoq_faiss import MeCoQ, ModelConfig, encode
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.sources import ImageSource, decode_image, open_source
from mecoq_faiss.data.views import to_float
from mecoq_faiss.index import build_index
from mecoq_faiss_cli.memory import keep_freed_memory

ITEMS = 50_000  # in the index that a query searches
BATCHES = (1, 4, 16, 64, 256)


@torch.inference_mode()
def bare(encoder: TorchEncoder, images: int, batch: int = ENCODE_BATCH) -> None:
    """The backbone alone on `images` float images that are there already."""
    size = encoder.model.config.image_size
    x = torch.rand(batch, 3, size, size, device=encoder.device)
    for start in range(0, images, batch):
        encoder.model.backbone(x[: images - start])
    if encoder.device.startswith("cuda"):
        torch.cuda.synchronize()


def files(encoder: TorchEncoder, source: ImageSource, a: argparse.Namespace) -> Row:
    """Images a second from files to codes, and of the bare backbone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "codes.h5"

        def whole() -> None:
            out.unlink(missing_ok=True)
            encode(encoder, source, out, workers=a.workers)

        sides = {"bare": lambda: bare(encoder, len(source)), "encode": whole}
        seconds = in_turn(sides, a.repeats)
        cpu = in_turn(sides, 1, time.process_time)  # without the workers': what cannot be overlapped
    rates = {f"{name}_images_per_s": len(source) / value for name, value in seconds.items()}
    ratios = {
        "encode / bare": seconds["bare"] / seconds["encode"],
        "CPU time of this process": cpu["bare"] / cpu["encode"],
    }
    return {"images": len(source), **rates, **ratios}


def query_parts(encoder: TorchEncoder, path: Path, repeats: int) -> list[Row]:
    """Milliseconds of each part of one query, and of `encode` and `search` as an application calls them."""
    c = encoder.model.config
    rng = np.random.default_rng(0)
    books = encoder.model.quantizer.unit_codebooks().detach().cpu().numpy()
    index = build_index(books, rng.integers(0, c.K, (ITEMS, c.M), dtype=np.uint8))
    image = decode_image(path, draft=c.image_size)
    view = torch.from_numpy(fixed_view(image, c.image_size))[None]
    xq = encoder.encode([path])
    with torch.inference_mode():
        x = to_float(view.to(encoder.device))
        features = encoder.backbone(x)
        sides = {
            "decode": lambda: decode_image(path, draft=c.image_size),
            "resize": lambda: fixed_view(image, c.image_size),
            "backbone": lambda: encoder.backbone(x).cpu(),
            "head": lambda: encoder.model.quantizer.segments(encoder.model.embed(features)).cpu(),
            f"search of {ITEMS} codes": lambda: index.search(xq, 10),
            "encode + search": lambda: index.search(encoder.encode([path]), 10),
        }
        seconds = in_turn(sides, repeats)
    return [{"part": name, "ms": 1000 * value} for name, value in seconds.items()]


def main() -> None:
    parser = arguments(__doc__, "encode")
    parser.add_argument("--data", help="a folder or tar of images (default: made-up JPEGs)")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--jpeg-side", type=int, default=256, help="of the made-up ones")
    parser.add_argument("--backbone", default="mobilenet_v2", help="its weights do not matter here")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    keep_freed_memory()  # as the command does
    use_threads(a.threads)
    encoder = TorchEncoder(MeCoQ(ModelConfig(backbone=a.backbone, weights="none", image_size=a.image_size)), a.device)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(a.data or jpegs(Path(folder) / "jpegs", a.images, a.jpeg_side), "database")
        if not isinstance(source, ImageSource):
            parser.error(f"{a.data} holds no images")
        source = source.subset(np.sort(np.random.default_rng(0).permutation(len(source))[: a.images]))
        row = files(encoder, source, a)
        show("files to codes", [row])
        query = Path(folder) / "query.jpg"
        source.open(0).save(query, quality=95)
        parts = query_parts(encoder, query, 10 * a.repeats)
    show("one query", parts)
    sum_of_parts = sum(part["ms"] for part in parts[:-1])
    batches: list[Row] = []
    for batch in BATCHES:
        started = time.perf_counter()
        bare(encoder, max(batch, a.images // 4), batch)
        batches.append(
            {"batch": batch, "ms an image": 1000 * (time.perf_counter() - started) / max(batch, a.images // 4)}
        )
    show("bare backbone", batches)
    curve = [b["batch"] for b in batches], [b["ms an image"] for b in batches]
    plot(a.out.with_suffix(".png"), {a.backbone: curve}, "batch", "ms an image, bare backbone")
    goals = [
        goal("encoding from files / bare backbone", row["encode / bare"], at_least=0.95),
        goal("one query / the sum of its parts", parts[-1]["ms"] / sum_of_parts, at_most=1.1),
    ]
    finish(a.out, a, goals, files=row, query=parts, batches=batches)
