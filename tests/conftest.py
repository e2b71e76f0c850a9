"""What several test files share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """View caches go to a temporary folder, in this process and its children, never to the user's."""
    os.environ["MECOQ_FAISS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
