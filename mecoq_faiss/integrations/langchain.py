"""LangChain: a bundle as its FAISS vector store, and the encoder as its Embeddings (extra: langchain)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.bundle.generation import relevance
from mecoq_faiss.bundle.opened import Bundle
from mecoq_faiss.integrations.items import described_items, own_index
from mecoq_faiss.integrations.texts import images_of

try:
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_community.vectorstores.utils import DistanceStrategy
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"LangChain is not installed ({error}): pip install 'mecoq-faiss[langchain]'", name=error.name
    ) from error


class BundleEmbeddings(Embeddings):
    """What an encoder makes of images: each text is a path, a data URI, or an image file's bytes in base64.

    Args:
        encoder: a bundle's.
        features: for a bundle of features, what made these of texts; without it each text is a file of one row.

    Example:
        >>> embeddings = BundleEmbeddings(open_bundle("bundle").encoder)
        >>> len(embeddings.embed_query("query.jpg"))
        32
    """

    def __init__(self, encoder: Encoder, features: Embeddings | None = None) -> None:
        if features is not None and not encoder.takes_features:
            raise ValueError("the bundle's model takes images: leave features out")
        self.encoder, self.features = encoder, features

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors to add to the index, d floats for each text."""
        x = images_of(texts) if self.features is None else self.features.embed_documents(texts)
        return self.encoder.encode(x, for_database=True).tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector to search the index with, d floats."""
        [x] = images_of([text]) if self.features is None else [self.features.embed_query(text)]
        return self.encoder.encode(x)[0].tolist()


def store_options(bundle: Bundle) -> dict[str, Any]:
    """How LangChain's FAISS is to read the scores, for its constructor or `FAISS.load_local`, which forgets it.

    With `MAX_INNER_PRODUCT` the best score is the highest, so that `score_threshold` keeps it. A relevance is
    (s + M) / 2M, of additive codes (s + 1) / 2: in [0, 1]. Scores that are inner products or L2 have none.
    """
    return {"distance_strategy": DistanceStrategy.MAX_INNER_PRODUCT, "relevance_score_fn": _relevance(bundle.top_score)}


def _relevance(top: float | None) -> Callable[[float], float]:
    def of_score(score: float) -> float:
        found = relevance(float(score), top)
        if found is None:
            raise ValueError("this bundle's scores have no highest one: use similarity_search_with_score")
        return found

    return of_score


def to_langchain(bundle: Bundle, *, text: str = "path", features: Embeddings | None = None) -> FAISS:
    """LangChain's vector store over a copy of the bundle's index.

    Its documents have the items' ids, as texts, and for metadata `id`, `path`, `label` and the bundle's own columns.
    They are in memory, as all documents of this store. What is added to it leaves the bundle as it is.

    Args:
        bundle: an open bundle.
        text: the column that is a document's page_content.
        features: see `BundleEmbeddings`.

    Raises:
        ValueError: an item has no such column; `features` for a bundle of images.

    Example:
        >>> store = to_langchain(open_bundle("bundle"))
        >>> [document.metadata["path"] for document in store.similarity_search("query.jpg", k=3)]
        ['cat/7.jpg', 'cat/12.jpg', 'dog/3.jpg']
    """
    items = described_items(bundle, needed=text)
    documents = {
        str(item["id"]): Document(id=str(item["id"]), page_content=str(item[text]), metadata=item) for item in items
    }
    return FAISS(
        BundleEmbeddings(bundle.encoder, features),
        own_index(bundle),
        InMemoryDocstore(documents),
        dict(enumerate(documents)),
        **store_options(bundle),
    )
