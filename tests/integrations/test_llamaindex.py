"""A bundle in LlamaIndex: the same hits, nodes that are inserted and deleted, and what is persisted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import Bundle, export_index, open_bundle, remove

pytest.importorskip("llama_index.vector_stores.faiss", reason="LlamaIndex is not installed: make clients")
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.vector_stores.faiss import FaissMapVectorStore

from mecoq_faiss.integrations.llamaindex import to_llamaindex


def found_by(index: Any, query: Path | str, k: int) -> list[tuple[str, float]]:
    return [(hit.node.node_id, hit.score) for hit in index.as_retriever(similarity_top_k=k).retrieve(str(query))]


def test_the_documented_lines(documented: Callable[[str], dict[str, Any]]) -> None:
    names = documented("LlamaIndex")
    assert names["found"][0].node.metadata == {"id": 33, "path": "b/07.png", "label": "b", "year": 2007}
    assert {name for name, _ in found_by(names["index"], "photos/a/04.png", 2)} == {"2", names["node"].node_id}


def test_hits_are_those_of_the_bundle_whatever_its_ids(home: Path, tmp_path: Path) -> None:
    export_index(home / "bundle", None, tmp_path / "b", codes=home / "bundle", ids="auto")
    remove(tmp_path / "b", [0, 3])
    with open_bundle(tmp_path / "b") as bundle:
        index = to_llamaindex(bundle)
        [hits] = bundle.search(home / "query.png", k=58)
        found = found_by(index, home / "query.png", 58)
        assert [name for name, _ in found] == [str(hit.id) for hit in hits]
        np.testing.assert_allclose([score for _, score in found], [hit.score for hit in hits], rtol=1e-6)
        index.delete_nodes(["2"])
        assert "2" not in dict(found_by(index, home / "query.png", 57)) and bundle.index.ntotal == 58


def test_metadata_that_is_not_excluded_is_no_image(bundle: Bundle, home: Path) -> None:
    node = TextNode(text=str(home / "query.png"), metadata={"year": 2026})
    with pytest.raises(FileNotFoundError, match="year: 2026"):
        to_llamaindex(bundle).insert_nodes([node])


def test_its_store_is_persisted_and_read_again(bundle: Bundle, home: Path, tmp_path: Path) -> None:
    index = to_llamaindex(bundle)
    index.storage_context.persist(str(tmp_path))
    again = FaissMapVectorStore.from_persist_dir(str(tmp_path))
    assert again.client.ntotal == 60 and again._node_id_to_faiss_id_map["33"] == 33


class Rows(BaseEmbedding):
    """A user's embeddings of texts: each is the number of a row."""

    x: Any

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.x[int(text)].tolist()

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def test_embeddings_of_texts_and_additive_codes(home: Path) -> None:
    rows = Rows(x=np.load(home / "rows.npy"))
    with open_bundle(home / "features") as bundle:
        index = to_llamaindex(bundle, text="id", features=rows)
        [hits] = bundle.search(rows.x[5], k=10)
        assert [name for name, _ in found_by(index, "5", 10)] == [str(hit.id) for hit in hits]
        index.insert_nodes([TextNode(text="7", id_="mine")])
        scores = dict(found_by(index, "7", 61))
        assert scores["mine"] == scores["7"]
        with pytest.raises(ValueError, match="has nothing there"):
            to_llamaindex(bundle, text="caption")
