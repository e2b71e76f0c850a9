"""What several test files share."""

from __future__ import annotations

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and FAISS start: on tiny arrays more threads only wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with SIGINT ignored


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """View caches go to a temporary folder, in this process and its children, never to the user's."""
    os.environ["MECOQ_FAISS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
