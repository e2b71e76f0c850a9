"""A small bundle, and the service on it, as clients reach it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
import httpx
import uvicorn

from mecoq_faiss.service.app import create_app
from mecoq_faiss.service.keys import add_key
from mecoq_faiss.service.settings import Settings

N = 60


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` of two classes, `years.csv`, and of these `run`, `bundle` and, of 4-bit codes, `other`."""
    folder = tmp_path_factory.mktemp("service")
    rng = np.random.default_rng(0)
    rows = ["path,year,note"]
    for i in range(N):
        name = f"{'ab'[i % 2]}/{i:02}.png"
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        small.resize((40, 30), Image.Resampling.BILINEAR).save(folder / "photos" / name)
        rows.append(f"{name},{2000 + i},<b>{i}</b>")
    (folder / "years.csv").write_text("\n".join(rows))
    config = TrainConfig(epochs=1, batch_size=30, cached_views=2, workers=0)
    for nbits, name in ((8, "bundle"), (4, "other")):
        model = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=16, D=16, M=4, nbits=nbits)
        train(folder / "photos", folder / f"run{nbits}", model, config)
        export_index(folder / f"run{nbits}", folder / "photos", folder / name, metadata=folder / "years.csv", workers=0)
    return folder


class Running:
    """A service in a thread of this process, and a client of it."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        self.state = self.app.state.service
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)
        while self.client.get("/health").status_code != 200:
            time.sleep(0.05)

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="session")
def reading(collection: Path) -> Iterator[Running]:
    """Two bundles with pictures, open to all, never changed."""
    running = Running(Settings((collection / "bundle", collection / "other"), collection / "photos", workers=1))
    yield running
    running.stop()


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Callable[..., Running]:
    """Start a service; it ends with the test."""

    def start(*bundles: Path, **settings: Any) -> Running:
        running = Running(Settings(bundles, **{"workers": 1, "watch": 0.1} | settings))
        request.addfinalizer(running.stop)
        return running

    return start


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str, str]:
    """A file of keys, one that may read, one that may write."""
    path = tmp_path / "keys"
    return path, add_key(path, "reader", "read"), add_key(path, "writer", "write")
