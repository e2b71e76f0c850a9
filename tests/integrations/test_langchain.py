"""A bundle in LangChain: the same hits, the traps of its FAISS store, documents that are added and removed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss import Bundle, export_index, open_bundle
from mecoq_faiss.bundle.folder import verify_files

pytest.importorskip("langchain_community", reason="LangChain is not installed: make clients")
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings

from mecoq_faiss.integrations.langchain import BundleEmbeddings, store_options, to_langchain

QUERY = "query.png"


def ids_of(found: list[Any]) -> list[int]:
    return [document.metadata["id"] for document in found]


def test_the_documented_lines(documented: Callable[[str], dict[str, Any]], home: Path) -> None:
    names = documented("LangChain")
    assert names["documents"][0].metadata == {"id": 33, "path": "b/07.png", "label": "b", "year": 2007}
    assert names["kept"] and all(relevance >= 0.8 for _, relevance in names["kept"])


def test_hits_are_those_of_the_bundle(bundle: Bundle, home: Path) -> None:
    found = to_langchain(bundle).similarity_search_with_score(str(home / QUERY), k=20)
    [hits] = bundle.search([home / QUERY], k=20)
    assert [(d.metadata["id"], d.page_content, d.id) for d, _ in found] == [(h.id, h.path, str(h.id)) for h in hits]
    np.testing.assert_allclose([score for _, score in found], [hit.score for hit in hits], rtol=1e-6)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_query_may_be_the_bytes(bundle: Bundle, home: Path, prefix: str) -> None:
    embeddings = BundleEmbeddings(bundle.encoder)
    text = prefix + base64.b64encode((home / QUERY).read_bytes()).decode()
    assert embeddings.embed_query(text) == embeddings.embed_query(str(home / QUERY))
    assert embeddings.embed_documents([text]) == [embeddings.embed_query(text)]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        embeddings.embed_query("nowhere.png")


def test_score_threshold_keeps_the_best(bundle: Bundle, home: Path) -> None:
    store = to_langchain(bundle)
    scores = [score for _, score in store.similarity_search_with_score(str(home / QUERY), k=20)]
    kept = store.similarity_search_with_score(str(home / QUERY), k=20, score_threshold=scores[4])
    assert [score for _, score in kept] == [score for score in scores if score >= scores[4]]
    wrong = FAISS(store.embeddings, store.index, store.docstore, store.index_to_docstore_id)  # Euclidean
    lost = wrong.similarity_search_with_score(str(home / QUERY), k=20, score_threshold=scores[4])
    assert scores[0] not in [score for _, score in lost]  # the trap


def test_relevance_is_best_at_one(bundle: Bundle, home: Path) -> None:
    found = to_langchain(bundle).similarity_search_with_relevance_scores(str(home / QUERY), k=60)
    [hits] = bundle.search([home / QUERY], k=60)
    np.testing.assert_allclose([relevance for _, relevance in found], [(hit.score + 4) / 8 for hit in hits], rtol=1e-6)
    assert all(0 <= relevance <= 1 for _, relevance in found)
    kept = to_langchain(bundle).similarity_search_with_relevance_scores(str(home / QUERY), k=60, score_threshold=0.9)
    assert ids_of([d for d, _ in kept]) == [hit.id for hit in hits if (hit.score + 4) / 8 >= 0.9] and kept


def test_load_local_forgets_what_store_options_says_again(bundle: Bundle, home: Path, tmp_path: Path) -> None:
    store = to_langchain(bundle)
    store.save_local(str(tmp_path))
    given = {"embeddings": store.embeddings, "allow_dangerous_deserialization": True}
    expected = store.similarity_search_with_relevance_scores(str(home / QUERY), k=5)
    again = FAISS.load_local(str(tmp_path), **given, **store_options(bundle))
    assert again.similarity_search_with_relevance_scores(str(home / QUERY), k=5) == expected
    forgot = FAISS.load_local(str(tmp_path), **given)
    assert forgot.similarity_search_with_relevance_scores(str(home / QUERY), k=5)[0][1] < 0  # the trap


@pytest.mark.parametrize("ids", [None, "auto"])
def test_added_and_deleted_documents_leave_the_bundle(home: Path, tmp_path: Path, ids: str | None) -> None:
    export_index(home / "bundle", None, tmp_path / "b", codes=home / "bundle", ids=ids)
    with open_bundle(tmp_path / "b") as bundle:
        store, photo = to_langchain(bundle), str(home / "photos" / "a" / "04.png")
        store.add_texts([photo], ids=["mine"])
        best = store.similarity_search(photo, k=2)
        assert {document.id for document in best} == {"mine", "2"}
        store.delete(["2", "0"])
        assert [document.id for document in store.similarity_search(photo, k=1)] == ["mine"]
        assert len(bundle) == bundle.index.ntotal == 60
    verify_files(tmp_path / "b")


class Rows(Embeddings):
    """A user's embeddings of texts: each is the number of a row."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.x[int(text)].tolist()


def test_embeddings_of_texts_and_additive_codes(home: Path) -> None:
    x = np.load(home / "rows.npy")
    with open_bundle(home / "features") as bundle:
        store = to_langchain(bundle, text="id", features=Rows(x))
        found = store.similarity_search_with_score("5", k=10)
        [hits] = bundle.search(x[5], k=10)
        assert [(d.page_content, d.metadata["id"]) for d, _ in found] == [(str(h.id), h.id) for h in hits]
        store.add_texts(["7"])  # its codewords, which are no query
        a, b = faiss.downcast_index(store.index).reconstruct(60), faiss.downcast_index(store.index).reconstruct(7)
        np.testing.assert_array_equal(a, b)
        with pytest.raises(ValueError, match="has nothing there"):
            to_langchain(bundle, text="caption")


def test_features_for_a_bundle_of_images_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="takes images"):
        to_langchain(bundle, features=Rows(np.zeros((1, 12))))


@pytest.mark.parametrize(("kind", "nbits"), [("pqfs", 4), ("ivfpq", 8), ("ivfpqfs", 4), ("gpu", 8)])
def test_every_kind(home: Path, tmp_path: Path, kind: str, nbits: int) -> None:
    if nbits == 4:
        from mecoq_faiss import ModelConfig, TrainConfig, train

        model = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=16, D=16, M=4, nbits=4)
        train(home / "photos", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=30, cached_views=2, workers=0))
    options: dict[str, Any] = {"refine": True} if nbits == 4 else {}
    export_index(
        tmp_path / "run" if nbits == 4 else home / "run",
        home / "photos",
        tmp_path / "b",
        kind=kind,
        workers=0,
        **options,
    )
    with open_bundle(tmp_path / "b") as bundle:
        found = to_langchain(bundle).similarity_search_with_score(str(home / QUERY), k=5)
        [hits] = bundle.search([home / QUERY], k=5)
        assert [score for _, score in found] == pytest.approx([hit.score for hit in hits])
