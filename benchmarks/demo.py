"""The whole path on scikit-learn's digits: train, export, search, and MAP beside k-means PQ at the same bytes.

python -m benchmarks.demo --out demo
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from pathlib import Path

import faiss
import numpy as np

from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, load_encoder, train
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.evaluation import evaluate_search

BYTES = 4
K_MAP = 1000
MODEL = ModelConfig(backbone="pixels", image_size=8, M=BYTES, D=32)
# digits are neither mirrored nor coloured: the random views only crop
TRAIN = TrainConfig(epochs=60, batch_size=256, cached_views=30, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0)
BASELINES = [
    Baseline("PQ", BYTES, preprocess="raw", metric="L2"),
    Baseline("PQ", BYTES, preprocess="centred+normalised", metric="L2"),
    Baseline("OPQ", BYTES, preprocess="raw", metric="L2", width=32),
    Baseline("OPQ", BYTES, preprocess="centred+normalised", metric="L2", width=32),
]


def digits(split: str) -> ImageSource:
    source = open_source("digits", split)
    assert isinstance(source, ImageSource)
    return source


def pixels(source: ImageSource) -> np.ndarray:
    """(n, 3 * 64) float32, channel by channel: what the backbone `pixels` gives both sides."""
    images = [np.asarray(source.open(i), np.float32) for i in range(len(source))]
    return np.stack([image.transpose(2, 0, 1).ravel() for image in images])


def kmeans() -> tuple[str, float]:
    """The best MAP of FAISS's PQ and OPQ at the same bytes, over a few settings, and its name."""
    database, queries = digits("database"), digits("queries")
    assert database.labels is not None and queries.labels is not None
    xb, xq = pixels(database), pixels(queries)
    results = []
    for baseline in BASELINES:
        fitted = baseline.fit(xb, seed=0)
        found = evaluate_search(fitted.index(xb), fitted.transform_queries(xq), queries.labels, database.labels, K_MAP)
        results.append((found["map"], baseline.name))
    best, name = max(results)
    return name, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    shutil.rmtree(out, ignore_errors=True)
    started = time.monotonic()

    print(f"1. train on 1,500 digits without their labels, {BYTES} bytes an image -> {out}/run")
    train("digits", out / "run", MODEL, TRAIN)
    print(f"2. export a FAISS index, and prove it -> {out}/bundle")
    proof = export_index(out / "run", "digits", out / "bundle")["verification"]
    print(f"   index.search against torch: largest score difference {proof['max_score_difference']:.1e}")
    print("3. search, as an application does: faiss.read_index, encoder.encode, index.search")
    encoder = load_encoder(out / "bundle")
    index = faiss.read_index(str(out / "bundle" / "index.faiss"))
    query = digits("queries").open(0)
    D, I = index.search(encoder.encode(query), 3)
    paths = digits("database").paths
    print(
        f"   query {digits('queries').paths[0]} -> "
        + ", ".join(f"{paths[i]} ({score:.2f})" for i, score in zip(I[0], D[0], strict=True))
    )
    learned = evaluate(out / "bundle", "digits", k=K_MAP)["map"]
    name, best = kmeans()
    print(f"4. MAP@{K_MAP} over 297 queries at {BYTES} bytes an image")
    print(f"   mecoq-faiss           {learned:.3f}")
    print(f"   best k-means baseline {best:.3f}  ({name})")
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
