"""Evaluation: a run and its bundle, against brute force over the codes and the plain definition of MAP."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, load_encoder, train
from mecoq_faiss.bundle.folder import read_items

N, NQ = 160, 20


def write(path: Path, x: np.ndarray, **more: object) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = x.astype(np.float32)
        for name, value in more.items():
            file[name] = value


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters of 4 classes, a run and a bundle with ids of its own; queries whose classes come in another order."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    centers, labels = rng.normal(size=(4, 12)), np.arange(N + NQ) % 4
    x = centers[labels] + 0.8 * rng.normal(size=(N + NQ, 12))
    write(folder / "db.h5", x[:N], labels=labels[:N], class_names=list("abcd"))
    write(folder / "q.h5", x[N:], labels=3 - labels[N:], class_names=list("dcba"))
    write(folder / "bare.h5", x[:N])
    model = ModelConfig(hidden=16, D=8, M=2, nbits=4)
    train(folder / "db.h5", folder / "run", model, TrainConfig(epochs=2, batch_size=40))
    export_index(folder / "run", folder / "db.h5", folder / "bundle", ids=np.arange(N)[::-1] + 1000)
    return folder


ORDERS = 400


def brute_force(work: Path, k: int) -> dict[str, list[float]]:
    """By the plain definition, in each of many random orders of the items with equal codes."""
    encoder, items = load_encoder(work / "run"), read_items(work / "bundle" / "items.h5")
    with h5py.File(work / "q.h5") as file:
        xq, labels_q = encoder.encode(file["features"][:]), 3 - file["labels"][:]
    with torch.no_grad():
        codebooks = encoder.model.quantizer.unit_codebooks().numpy()
    codes, code = np.unique(items["codes"], axis=0, return_inverse=True)
    vectors = np.hstack([book[codes[:, m]] for m, book in enumerate(codebooks)])
    scores = (xq @ vectors.T)[:, code.ravel()]  # equal codes have the same score
    relevant = labels_q[:, None] == items["labels"]
    rng, found = np.random.default_rng(0), []
    for _ in range(ORDERS):
        order = np.lexsort((rng.random(scores.shape), -scores), axis=1)[:, :k]
        hits = np.take_along_axis(relevant, order, axis=1)
        sums = (hits * hits.cumsum(1) / np.arange(1, k + 1)).sum(1)
        of_first = {f"precision_at_{n}": hits[:, :n].mean() for n in (1, 10, 100) if n <= k}
        ap = sums / np.maximum(hits.sum(1), 1)
        found.append({"map": ap.mean(), "map_all": (sums / relevant.sum(1)).mean(), **of_first})
    return {name: [float(figures[name]) for figures in found] for name in found[0]}


@pytest.mark.parametrize("k", [7, 120])
def test_the_figures_are_those_of_the_definition(work: Path, k: int) -> None:
    found = evaluate(work / "bundle", work / "q.h5", k=k)
    expected = brute_force(work, k)
    assert found.keys() == {*expected, "k", "queries", "items", "skipped_queries"}
    for name, values in expected.items():
        assert abs(found[name] - np.mean(values)) < 4 * np.std(values) / ORDERS**0.5 + 1e-9, name
    assert 0.3 < found["map"] < 1
    assert [found[name] for name in ("k", "queries", "items", "skipped_queries")] == [k, NQ, N, 0]


def test_a_run_and_its_bundle_agree(work: Path) -> None:
    of_run = evaluate(work / "run", work / "q.h5", work / "db.h5", 50)
    assert of_run == evaluate(work / "bundle", work / "q.h5", k=50)


def test_the_cut_off_is_the_whole_of_a_small_database(work: Path) -> None:
    assert evaluate(work / "bundle", work / "q.h5")["k"] == N
    for k in (0, -1, N + 1):
        with pytest.raises(ValueError, match=f"k={k} is out of range: the database has {N} items, choose 1 to {N}"):
            evaluate(work / "bundle", work / "q.h5", k=k)


def test_what_is_missing_is_named(work: Path) -> None:
    with pytest.raises(ValueError, match=r"bare\.h5 has no labels: put the images"):
        evaluate(work / "bundle", work / "bare.h5")
    with pytest.raises(ValueError, match="the database has no labels"):
        evaluate(work / "run", work / "q.h5", work / "bare.h5")
    with pytest.raises(ValueError, match="a run has no images: give --database, or export a bundle"):
        evaluate(work / "run", work / "q.h5")
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        evaluate(work, work / "q.h5")
