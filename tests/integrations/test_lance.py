"""A bundle in Lance: its columns, and the same hits as FAISS up to equal scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import Bundle, ModelConfig, TrainConfig, export_index, open_bundle, remove, train

pytest.importorskip("lance", reason="Lance is not installed: make clients")
import lance

from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.integrations.lance import to_lance


def nearest(dataset: Any, q: np.ndarray, k: int) -> Any:
    return dataset.to_table(columns=["id", "_distance"], nearest={"column": "vector", "q": q, "k": k})


def assert_same_hits(bundle: Bundle, dataset: Any, xq: np.ndarray, k: int = 10) -> None:
    """The same scores; the same items but where scores are equal to the k-th."""
    with bundle.in_use() as generation:
        wanted = generation.search_vectors(xq, k, None)
    for q, hits in zip(xq, wanted, strict=True):
        found = nearest(dataset, q, k)
        scores = {hit.id: hit.score for hit in hits}
        np.testing.assert_allclose(1 - found["_distance"].to_numpy(), [hit.score for hit in hits], atol=1e-4)
        last = hits[-1].score
        assert {id for id, score in scores.items() if score > last + 1e-4} <= set(found["id"].to_pylist())


def test_the_documented_lines(documented: Callable[[str], dict[str, Any]], home: Path) -> None:
    names = documented("Lance")
    found = names["found"].to_pydict()
    assert found["image_path"][0] == "b/07.png" and found["year"][0] == 2007 and len(found["year"]) == 5
    assert sorted(names["dataset"].schema.names) == ["id", "image_path", "label", "vector", "year"]


@pytest.mark.parametrize(("M", "nbits"), [(4, 8), (2, 8), (8, 4)])
def test_hits_on_the_digits_are_those_of_faiss(tmp_path: Path, M: int, nbits: int) -> None:
    model = ModelConfig(backbone="pixels", image_size=8, M=M, nbits=nbits, D=32, hidden=32)
    train("digits", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=250, cached_views=2))
    export_index(tmp_path / "run", "digits", tmp_path / "bundle", workers=0)
    queries = open_source("digits", "queries")
    assert isinstance(queries, ImageSource)
    dataset = to_lance(tmp_path / "bundle", tmp_path / "digits.lance")
    with open_bundle(tmp_path / "bundle") as bundle:
        assert_same_hits(bundle, dataset, bundle.encoder.encode([queries.open(i) for i in range(100)]))


def test_additive_codes_and_removed_items(home: Path, tmp_path: Path) -> None:
    export_index(home / "features", None, tmp_path / "b", codes=home / "features", ids="auto")
    remove(tmp_path / "b", [0, 5])
    dataset = to_lance(tmp_path / "b", tmp_path / "b.lance")
    assert dataset.to_table(columns=["id"])["id"].to_pylist() == [1, 2, 3, 4, *range(6, 60)]
    with open_bundle(tmp_path / "b") as bundle:
        assert_same_hits(bundle, dataset, bundle.encoder.encode(home / "rows.npy"), k=58)


def test_nothing_is_left_of_a_failure(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance.LanceDataset, "create_index", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_lance(home / "bundle", tmp_path / "out.lance")
    assert not any(tmp_path.iterdir())
    (tmp_path / "out.lance").mkdir()
    with pytest.raises(FileExistsError, match="choose another"):
        to_lance(home / "bundle", tmp_path / "out.lance")
