"""LlamaIndex: a bundle as its VectorStoreIndex over FAISS, and the encoder as its embedding (extra: llamaindex)."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.index.build import with_ids
from mecoq_faiss.integrations.items import described_items, own_index
from mecoq_faiss.integrations.texts import images_of

try:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.data_structs import IndexDict
    from llama_index.core.schema import TextNode
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.vector_stores.faiss import FaissMapVectorStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"LlamaIndex is not installed ({error}): pip install 'mecoq-faiss[llamaindex]'", name=error.name
    ) from error


class BundleEmbedding(BaseEmbedding):
    """What an encoder makes of images: each text is a path, a data URI, or an image file's bytes in base64.

    LlamaIndex puts a node's metadata before its text, unless `excluded_embed_metadata_keys` names them all: name them
    in what you insert.

    Args:
        encoder: a bundle's.
        features: for a bundle of features, what made these of texts; without it each text is a file of one row.
    """

    _encoder: Encoder = PrivateAttr()
    _features: BaseEmbedding | None = PrivateAttr()

    def __init__(self, encoder: Encoder, features: BaseEmbedding | None = None, **more: Any) -> None:
        if features is not None and not encoder.takes_features:
            raise ValueError("the bundle's model takes images: leave features out")
        super().__init__(model_name="mecoq-faiss", **more)
        self._encoder, self._features = encoder, features

    def _get_text_embedding(self, text: str) -> list[float]:
        x = images_of([text]) if self._features is None else [self._features.get_text_embedding(text)]
        return self._encoder.encode(x, for_database=True)[0].tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        x = images_of([query]) if self._features is None else [self._features.get_query_embedding(query)]
        return self._encoder.encode(x)[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def to_llamaindex(bundle: Bundle, *, text: str = "path", features: BaseEmbedding | None = None) -> VectorStoreIndex:
    """LlamaIndex's vector store index over a copy of the bundle's index.

    Its nodes have the items' ids, as texts, and for metadata `id`, `path`, `label` and the bundle's own columns. They
    are in memory. What is inserted or deleted leaves the bundle as it is.

    Args:
        bundle: an open bundle.
        text: the column that is a node's text.
        features: see `BundleEmbedding`.

    Raises:
        ValueError: an item has no such column; `features` for a bundle of images.

    Example:
        >>> retriever = to_llamaindex(open_bundle("bundle")).as_retriever(similarity_top_k=3)
        >>> [found.node.metadata["path"] for found in retriever.retrieve("query.jpg")]
        ['cat/7.jpg', 'cat/12.jpg', 'dog/3.jpg']
    """
    nodes = []
    for item in described_items(bundle, needed=text):
        keys = {"excluded_embed_metadata_keys": list(item)}
        nodes.append(TextNode(id_=str(item["id"]), text=str(item[text]), metadata=item, **keys))
    names = {node.node_id: row for row, node in enumerate(nodes)}
    index = own_index(bundle)
    store = _store(with_ids(index, np.arange(index.ntotal)), names)
    documents = SimpleDocumentStore()
    documents.add_documents(nodes)
    return VectorStoreIndex(
        index_struct=IndexDict(nodes_dict={name: name for name in names}),
        storage_context=StorageContext.from_defaults(vector_store=store, docstore=documents),
        embed_model=BundleEmbedding(bundle.encoder, features),
    )


def _store(index: faiss.Index, rows: dict[str, int]) -> FaissMapVectorStore:
    """LlamaIndex's store of a filled index; it only has a way to fill one itself."""
    store = FaissMapVectorStore(faiss_index=index)
    store._node_id_to_faiss_id_map.update(rows)
    store._faiss_id_to_node_id_map.update({row: name for name, row in rows.items()})
    return store
