"""The settings that a bundle's index gives to one of other items."""

import numpy as np
import pytest

from mecoq_faiss.bundle.recast import settings
from mecoq_faiss.index import build_index, describe_index

OPTIONS = [("pqfs", {"refine": True, "k_factor": 3.0}), ("ivfpq", {"nlist": 8, "nprobe": 5}), ("pq", {})]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_they_give_an_index_that_is_described_the_same(kind: str, options: dict) -> None:
    rng = np.random.default_rng(0)
    books = rng.standard_normal((2, 16, 4)).astype(np.float32)
    books /= np.linalg.norm(books, axis=2, keepdims=True)
    codes = rng.integers(0, 16, (50, 2), dtype=np.uint8)
    said = describe_index(build_index(books, codes, kind, **options))
    assert describe_index(build_index(books, codes, **settings(said, 50))) == said
    assert describe_index(build_index(books, codes[:4], **settings(said, 4)))["n"] == 4, "never more lists than items"
