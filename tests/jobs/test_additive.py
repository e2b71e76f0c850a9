"""Additive codes through every job: trained, exported, searched, followed, joined, proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, encode, evaluate, export_index, load_encoder, train, tune, update
from mecoq_faiss import verify as verify_bundle
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.index import load_index, read_codes
from mecoq_faiss.index.codes import sum_codes
from mecoq_faiss.jobs.merge import merge
from mecoq_faiss.jobs.search import search
from mecoq_faiss.jobs.split import split
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.storage.shards import map_array

KINDS: list[tuple[str, int, dict[str, Any]]] = [
    ("pq", 8, {}),
    ("pqfs", 4, {}),
    ("pqfs", 4, {"refine": True}),
    ("ivfpq", 8, {"nlist": 9, "nprobe": 3}),
    ("ivfpqfs", 4, {"nlist": 9, "nprobe": 3, "refine": True}),
]
N = 400


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clustered features, and runs of 8 and 4 bits."""
    folder = tmp_path_factory.mktemp("additive")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 24))
    x = (centers[rng.integers(0, 20, N + 30)] + 0.4 * rng.normal(size=(N + 30, 24))).astype(np.float32)
    np.save(folder / "x.npy", x[:N])
    np.save(folder / "grown.npy", x)
    for nbits in (8, 4):
        model = ModelConfig(M=16 // nbits, D=16, nbits=nbits, hidden=32, codes="additive")
        train(folder / "x.npy", folder / f"run{nbits}", model, TrainConfig(epochs=2, batch_size=100))
    return folder


@pytest.mark.parametrize(("kind", "nbits", "options"), KINDS)
def test_every_kind_is_exported_followed_and_divided(
    work: Path, tmp_path: Path, kind: str, nbits: int, options: dict[str, Any]
) -> None:
    bundle, M = tmp_path / "bundle", 16 // nbits
    manifest = export_index(work / f"run{nbits}", work / "x.npy", bundle, kind=kind, **options)
    assert (manifest["format"], manifest["codes"], manifest["query_repeats"]) == (4, "additive", M)
    assert manifest["d"] == 16 * M and manifest["verification"]["equal_codes"] == 1
    done = update(bundle, work / "grown.npy")
    assert done["added"] == 30 and verify_bundle(bundle)["items"] == N + 30
    split(bundle, tmp_path / "parts", 2)
    assert merge([tmp_path / "parts" / f"part-{i}" for i in (1, 2)], tmp_path / "whole")["codes"] == "additive"
    of_bundle, of_whole = (read_codes(load_index(tmp_path / name / "index.faiss")) for name in ("bundle", "whole"))
    np.testing.assert_array_equal(of_bundle, of_whole)


def test_the_index_searches_sums(work: Path, tmp_path: Path) -> None:
    export_index(work / "run8", work / "x.npy", tmp_path / "b")
    encoder, index, x = (
        load_encoder(tmp_path / "b"),
        load_index(tmp_path / "b" / "index.faiss"),
        np.load(work / "x.npy"),
    )
    xq = encoder.encode(x)
    assert xq.shape == (N, encoder.d) == (N, 32)
    np.testing.assert_array_equal(xq[:, :16], xq[:, 16:])
    np.testing.assert_allclose(np.linalg.norm(xq[:, :16], axis=1), 1, atol=1e-5)
    codes = read_codes(index)
    D, I = index.search(xq[:5], 7)
    scores = xq[:5, :16] @ sum_codes(encoder.codebooks, codes).T
    np.testing.assert_allclose(D, -np.sort(-scores, axis=1)[:, :7], atol=1e-5)
    assert scores.max() < 1.2
    index.add(encoder.encode(x[:9], for_database=True))
    np.testing.assert_array_equal(read_codes(index)[N:], codes[:9])
    [hits] = search(tmp_path / "b", work / "x.npy", 3)[:1]
    assert [hit.id for hit in hits] == I[0, :3].tolist()


def test_of_product_codes_the_database_takes_what_queries_are() -> None:
    encoder, x = TorchEncoder(MeCoQ(ModelConfig(backbone="features", feature_dim=5, D=8, M=2))), np.eye(5)
    np.testing.assert_array_equal(encoder.encode(x), encoder.encode(x, for_database=True))


def test_encoded_files_hold_embeddings_and_their_errors(work: Path, tmp_path: Path) -> None:
    encode(work / "run8", work / "x.npy", tmp_path / "codes.h5", embeddings="float32")
    z, codes = (map_array(tmp_path / "codes.h5", name) for name in ("embeddings", "codes"))
    sums = sum_codes(load_encoder(work / "run8").codebooks, codes)
    np.testing.assert_allclose(map_array(tmp_path / "codes.h5", "error"), ((z - sums) ** 2).sum(axis=1), atol=1e-6)
    assert z.shape == (N, 16) and ((z - sums) ** 2).sum(axis=1).mean() < 0.1
    manifest = export_index(work / "run8", None, tmp_path / "b", codes=tmp_path / "codes.h5")
    assert manifest["counts"]["items"] == N
    assert tune(tmp_path / "b", work / "x.npy", k=5)["reached"]


def test_a_run_and_its_bundle_evaluate_to_the_same(tmp_path: Path) -> None:
    model = ModelConfig(backbone="pixels", image_size=8, M=4, nbits=4, D=16, hidden=32, codes="additive")
    config = TrainConfig(epochs=2, batch_size=250, cached_views=2, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0)
    train("digits", tmp_path / "run", model, config)
    export_index(tmp_path / "run", "digits", tmp_path / "b")
    of_bundle = evaluate(tmp_path / "b", "digits", k=100)
    assert of_bundle == evaluate(tmp_path / "run", "digits", "digits", k=100) and of_bundle["map"] > 0.4


def test_what_it_is_not_for_is_one_line(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind 'ivfpq-all' takes no additive codes: choose 'pq'"):
        export_index(work / "run8", work / "x.npy", tmp_path / "b", kind="ivfpq-all")
    with pytest.raises(ValueError, match="fitted when training ends"):
        TorchEncoder(MeCoQ(ModelConfig(backbone="features", feature_dim=5, D=8, M=2, codes="additive")))


@pytest.mark.parametrize(("part", "value", "says"), [("codes", "product", "query_repeats is 2"), ("d", 64, "has D=16")])
def test_a_manifest_of_other_codes_is_refused(work: Path, tmp_path: Path, part: str, value: Any, says: str) -> None:
    export_index(work / "run8", work / "x.npy", tmp_path / "b")
    file = tmp_path / "b" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: value}))
    with pytest.raises(ValueError, match=says):
        load_encoder(tmp_path / "b")


def test_it_is_plain_faiss(work: Path, tmp_path: Path) -> None:
    export_index(work / "run8", work / "x.npy", tmp_path / "b")
    index = faiss.read_index(str(tmp_path / "b" / "index.faiss"))
    assert type(index) is faiss.IndexPQ and (index.d, index.code_size, index.pq.M) == (32, 2, 2)
