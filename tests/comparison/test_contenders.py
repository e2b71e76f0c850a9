"""What is compared: codes, indexes and codewords of the learned codes and of baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.comparison import contenders
from mecoq_faiss.comparison.contenders import Contender, baseline_contender, embed_features, learned_contender
from mecoq_faiss.data.sources import open_source
from tests.exact import search_exact


def test_codewords_used_by_hand() -> None:
    codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]], np.uint8)
    used = Contender("x", "x", 2, None, lambda x: x, codes, K=8).codewords_used
    assert used == [{"used": 0.5, "effective": 0.5}, {"used": 0.125, "effective": 0.125}]


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_four_bit_baselines_are_searched_with_fastscan(metric: Any) -> None:
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    fitted = Baseline("PQ", 4, nbits=4, preprocess="centred", metric=metric).fit(x)
    contender = baseline_contender(fitted, x)
    assert isinstance(faiss.downcast_index(contender.index.index), faiss.IndexPQFastScan)
    exact = fitted.search(fitted.index(x), x, 20)[1]
    found = contender.index.search(x, 20)[1]
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact, found, strict=True)]) > 0.9
    assert contender.codes is not None and contender.codes.shape == (400, 8) and contender.codes.max() < 16


def test_embeddings_of_features_are_the_encoders(digits_run: Path) -> None:
    encoder = load_encoder(digits_run)
    source = open_source("digits", "queries")
    features, _ = fixed_features(source, encoder.model.backbone, size=8, workers=0)
    images = [source.open(i) for i in range(5)]  # type: ignore[union-attr]
    np.testing.assert_allclose(embed_features(encoder.model, features[:5]), encoder.encode(images), atol=1e-5)


def test_additive_codes_are_searched_as_sums() -> None:
    torch.manual_seed(0)
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=2, codes="additive")).eval()
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    assert learned_contender(model, x).index.d == 16, "product codes, until the others are fitted"
    assert model.additive is not None
    model.additive.set_codebooks(torch.randn(2, 256, 16) / 4)
    contender = learned_contender(model, x)
    assert contender.setting == "MeCoQ 2x8, D=16, additive" and contender.codes is not None
    xq, sums = contender.queries(x[:5]), model.additive.decode(torch.from_numpy(contender.codes)).numpy()
    expected = -np.sort(-xq[:, :16] @ sums.T, axis=1)[:, :10]
    np.testing.assert_allclose(contender.index.search(xq, 10)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("nbits", "kind"), [(8, faiss.IndexPQ), (4, faiss.IndexPQFastScan)])
def test_the_learned_codes_are_equation_15s(nbits: int, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "BATCH", 70)  # does not divide
    torch.manual_seed(0)
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=4, nbits=nbits)).eval()
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    contender = learned_contender(model, x)
    assert (contender.label, contender.setting) == ("MeCoQ", f"MeCoQ 4x{nbits}, D=16")
    assert (contender.num_bytes, contender.K, type(contender.index)) == (nbits // 2, 2**nbits, kind)
    with torch.no_grad():
        z = model.embed(torch.from_numpy(x)).numpy().reshape(300, 4, 4)
    z /= np.linalg.norm(z, axis=2, keepdims=True)
    books = model.quantizer.codebooks.detach().numpy()
    books = books / np.linalg.norm(books, axis=2, keepdims=True)
    np.testing.assert_array_equal(contender.codes, np.einsum("nmd,mkd->nmk", z, books).argmax(2))
    xq = contender.queries(x[:5])
    np.testing.assert_allclose(xq, z[:5].reshape(5, 16), atol=1e-6)
    assert contender.codes is not None
    expected = search_exact(books, contender.codes, xq, 10)[0]
    tolerance = 1e-5 if nbits == 8 else 4 * 2 / 255 / 2  # FastScan's tables: half a step of at most 2 / 255, M = 4
    np.testing.assert_allclose(contender.index.search(xq, 10)[0], expected, atol=tolerance)


def test_a_baselines_codes_are_the_nearest_centroids() -> None:
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    fitted = Baseline("PQ", 2).fit(x)
    contender = baseline_contender(fitted, x[:90])
    assert (contender.label, contender.setting, contender.num_bytes) == ("PQ", "PQ 2x8, raw, L2", 2)
    code: Any = faiss.downcast_index(fitted.trained.index)
    centroids = faiss.vector_to_array(code.pq.centroids).reshape(2, 256, 8)
    distances = ((x[:90].reshape(90, 2, 1, 8) - centroids) ** 2).sum(3)
    np.testing.assert_array_equal(contender.codes, distances.argmin(2))
    assert contender.K == 256 and contender.index.ntotal == 90
    np.testing.assert_array_equal(contender.queries(x[:3]), x[:3])


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_additive_codes_use_codewords_and_fastscan(metric: Any) -> None:
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    setting = Baseline("RQ", 4, nbits=4, preprocess="centred", metric=metric)
    contender = baseline_contender(setting.fit(x), x)
    assert isinstance(faiss.downcast_index(contender.index.index), faiss.IndexResidualQuantizerFastScan)
    assert contender.num_bytes == 4 and contender.codes is not None
    assert len(contender.codewords_used) == setting.M == {"L2": 6, "IP": 8}[metric]
    assert min(share["used"] for share in contender.codewords_used) > 0.9


def test_methods_without_codewords() -> None:
    x = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    settings = (Baseline("Flat"), Baseline("LSH", 3), Baseline("RaBitQ", 9, reduce="PCAR", width=8))
    flat, hashing, rabitq = (baseline_contender(setting.fit(x), x) for setting in settings)
    assert (flat.num_bytes, hashing.num_bytes, rabitq.num_bytes) == (4 * 16, 3, 9)
    for contender in (flat, hashing, rabitq):
        assert contender.codes is None and contender.codewords_used == []
    assert isinstance(hashing.index, faiss.IndexBinaryFlat) and hashing.queries(x[:2]).shape == (2, 3)
