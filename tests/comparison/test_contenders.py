"""What is compared: codes, indexes and codewords of the learned codes and of baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.comparison.contenders import Contender, baseline_contender, embed_features
from mecoq_faiss.data.sources import open_source


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
