"""The documented lines for Haystack: the same hits, its filters, documents that are written and deleted, saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss import open_bundle

pytest.importorskip("haystack_integrations.document_stores.faiss", reason="Haystack is not installed: make clients")
from haystack import Document
from haystack_integrations.document_stores.faiss import FAISSDocumentStore


def test_the_documented_lines(documented: Callable[[str], dict[str, Any]], home: Path, tmp_path: Path) -> None:
    names = documented("Haystack")
    store, encoder = names["store"], names["encoder"]
    assert names["found"][0].content == "b/07.png" and all(document.meta["year"] >= 2005 for document in names["found"])
    with open_bundle(home / "bundle") as bundle:
        [hits] = bundle.search(home / "query.png", k=60)
    query = encoder.encode(home / "query.png")[0].tolist()
    found = store.search(query, top_k=60)
    assert [document.content for document in found] == [hit.path for hit in hits]
    assert [document.score for document in found] == pytest.approx([hit.score for hit in hits])

    vector = encoder.encode(home / "query.png", for_database=True)[0].tolist()
    store.write_documents([Document(id="mine", content="query.png", embedding=vector)])
    assert {document.id for document in store.search(query, top_k=2)} == {"mine", "b/07.png"}
    store.delete_documents(["b/07.png"])
    assert [document.id for document in store.search(query, top_k=1)] == ["mine"]
    store.save(tmp_path / "store")
    again = FAISSDocumentStore(str(tmp_path / "store"), "PQ4x8", encoder.d)
    assert again.search(query, top_k=20) == store.search(query, top_k=20)
