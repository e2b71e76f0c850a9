"""The documented lines for txtai: the same hits, rows that are appended and deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss import open_bundle

pytest.importorskip("txtai", reason="txtai is not installed: make clients")


def test_the_documented_lines(documented: Callable[[str], dict[str, Any]], home: Path) -> None:
    names = documented("txtai")
    ann, encoder = names["ann"], names["encoder"]
    with open_bundle(home / "bundle-ids") as bundle:
        [hits] = bundle.search(home / "query.png", k=5)
    assert [id for id, _ in names["found"]] == [hit.id for hit in hits]
    assert [score for _, score in names["found"]] == pytest.approx([hit.score for hit in hits])
    xq = encoder.encode(home / "photos" / "a" / "04.png")
    assert {id for id, _ in ann.search(xq, 2)[0]} == {2, 60} and ann.count() == 61
    ann.delete([2])
    assert ann.search(xq, 1)[0][0][0] == 60


def test_its_embeddings_keep_the_order(home: Path) -> None:
    from txtai import Embeddings
    from txtai.ann import ANNFactory

    with open_bundle(home / "bundle-ids") as bundle:
        encoder = bundle.encoder
        embeddings = Embeddings(method="external", transform=lambda paths: encoder.encode(list(paths)), backend="faiss")
        embeddings.ann = ANNFactory.create({"backend": "faiss", "dimensions": encoder.d, "offset": 60})
        embeddings.ann.load(str(home / "bundle-ids" / "index.faiss"))
        [hits] = bundle.search(home / "query.png", k=5)
        found = embeddings.search(str(home / "query.png"), 5)
        assert [id for id, _ in found] == [hit.id for hit in hits]
        assert [score for _, score in found] == pytest.approx([hit.score / 2 for hit in hits])  # M = 4
