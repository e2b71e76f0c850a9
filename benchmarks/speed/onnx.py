"""The encoder as an ONNX graph beside the model: codes of many images counted, and the time of one image as a ratio.

python -m benchmarks.speed onnx [--data SRC] [--weights FILE] [--backbone NAME] [--image-size N]

A model is trained on the first images drawn; then all of them are encoded by both. A code can differ only where its two
nearest codewords are nearly as near: by at most twice what the queries differ there, which is counted too. Times are of
ready views, of batches of one and more, both sides in turn on one thread; weights do not matter to them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.madeup import jpegs
from benchmarks.speed.measure import Row, arguments, finish, goal, in_turn, show, use_threads
from mecoq_faiss import MeCoQ, ModelConfig, TorchEncoder, TrainConfig, export_encoder, load_encoder, train
from mecoq_faiss.bundle.encoder import ENCODE_BATCH, Encoder
from mecoq_faiss.bundle.onnx_export import write_onnx
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.sources import ImageSource, open_source

BATCHES = (1, 8, 64)
SIDE = 128  # of made-up images
ROUNDING = 4 * np.finfo(np.float32).eps  # of a similarity


def compared(of_model: TorchEncoder, of_graph: Encoder, source: ImageSource) -> Row:
    """Codes of both for every image of a source, and whether each difference is a near-tie."""
    size = of_model.shape[-1]
    counts = {"images": 0, "images with equal codes": 0, "codes": 0, "codes that differ": 0, "of these near-ties": 0}
    largest = gap_of_all = 0.0
    for start in range(0, len(source), ENCODE_BATCH):
        rows = range(start, min(start + ENCODE_BATCH, len(source)))
        batch = np.stack([fixed_view(source.open(row, draft=size), size) for row in rows])
        xq, other = of_model.encode_batch(batch), of_graph.encode_batch(batch)
        codes, others = of_model.codes(xq), of_model.codes(other)
        image, m = np.nonzero(codes != others)
        with torch.inference_mode():
            best = of_model.quantizer.similarities(torch.from_numpy(xq)).topk(2, dim=2).values.numpy()
        moved = np.linalg.norm((xq - other).reshape(len(batch), codes.shape[1], -1), axis=2)  # (b, M)
        gap = (best[..., 0] - best[..., 1])[image, m]
        counts["images"] += len(batch)
        counts["images with equal codes"] += int((codes == others).all(axis=1).sum())
        counts["codes"] += codes.size
        counts["codes that differ"] += len(m)
        counts["of these near-ties"] += int((gap <= 2 * moved[image, m] + ROUNDING).sum())
        largest = max(largest, float(np.abs(xq - other).max()))
        gap_of_all = max(gap_of_all, float(gap.max(initial=0)))
    return counts | {"largest difference of queries": largest, "largest gap of a code that differs": gap_of_all}


def times(backbone: str, size: int, repeats: int) -> list[Row]:
    """Milliseconds a batch of ready views of both, at each size of batch."""
    config = ModelConfig(backbone=backbone, weights="none", image_size=size)
    of_model = TorchEncoder(MeCoQ(config), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(of_model, Path(folder) / "encoder.onnx")
        of_graph = load_encoder(Path(folder) / "encoder.onnx", runtime="onnx")
    rows = []
    for batch in BATCHES:
        x = np.random.default_rng(0).integers(0, 256, (batch, *of_model.shape), dtype=np.uint8)
        sides = {"torch": lambda x=x: of_model.encode_batch(x), "onnx": lambda x=x: of_graph.encode_batch(x)}
        in_turn(sides, 2)
        seconds = in_turn(sides, max(3, repeats // batch))
        ms = {f"{name}, ms": 1000 * value for name, value in seconds.items()}
        rows.append({"backbone": backbone, "px": size, "batch": batch, **ms, "onnx / torch": _ratio(seconds)})
    return rows


def _ratio(seconds: dict[str, float]) -> float:
    return seconds["onnx"] / seconds["torch"]


def main() -> None:
    parser = arguments(__doc__, "onnx")
    parser.add_argument("--data", help="a folder or tar of images (default: made-up JPEGs)")
    parser.add_argument("--backbone", default="timm:mobilenetv1_100")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--train-images", type=int, default=2_000)
    parser.add_argument("--timed", nargs="*", default=["resnet18", "mobilenet_v3_small"], help="further backbones")
    parser.add_argument("--repeats", type=int, default=40)
    a = parser.parse_args()
    use_threads(a.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(a.data or jpegs(Path(folder) / "jpegs", a.images, SIDE), "database")
        if not isinstance(source, ImageSource):
            parser.error(f"{a.data} holds no images")
        source = source.subset(np.random.default_rng(0).permutation(len(source))[: a.images])
        run, graph = Path(folder) / "run", Path(folder) / "encoder.onnx"
        model = ModelConfig(backbone=a.backbone, weights=a.weights, image_size=a.image_size)
        settings = TrainConfig(epochs=3, batch_size=min(128, a.train_images // 2), cached_views=2)
        train(source.subset(np.arange(a.train_images)), run, model, settings)
        export_encoder(run, graph)
        equal = compared(load_encoder(run, "cpu"), load_encoder(graph, runtime="onnx"), source)
    show("codes", [{"what": name, "count": value} for name, value in equal.items()])
    rows = [row for name in (a.backbone, *a.timed) for row in times(name, a.image_size, a.repeats)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of a machine that others use too
    show("times, both sides in turn", rows)
    a.weights = Path(a.weights).name
    one = [row for row in rows if row["batch"] == 1]
    goals = [
        goal("images with equal codes / images", equal["images with equal codes"] / equal["images"], at_least=0.999),
        goal("codes that differ, no near-ties", equal["codes that differ"] - equal["of these near-ties"], at_most=0),
        *(goal(f"{row['backbone']}, one image: onnx / torch", row["onnx / torch"], at_most=1) for row in one),
    ]  # fmt: skip
    finish(a.out, a, goals, codes=equal, times=rows, load_average=load)
