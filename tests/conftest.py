"""What several test files share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and FAISS start: on tiny arrays more threads only wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with SIGINT ignored


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """View caches go to a temporary folder, in this process and its children, never to the user's."""
    os.environ["MECOQ_FAISS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, 2 bytes a code."""
    from mecoq_faiss import ModelConfig, TrainConfig, train

    path = tmp_path_factory.mktemp("digits") / "run"
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)
    config = TrainConfig(epochs=2, batch_size=250, cached_views=2, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0)
    train("digits", path, model, config)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures that differ, without classes."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "all"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(130):
        small = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        small.resize((24, 24), Image.Resampling.BILINEAR).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that are in a file, and nowhere else; its batch norms have seen images."""
    import torch
    import torchvision

    torch.manual_seed(7)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    with torch.no_grad():
        for _ in range(50):
            net(torch.nn.functional.interpolate(torch.randn(32, 3, 4, 4), 32))
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(net.state_dict(), path)
    return path


def _threads() -> dict[str, int]:
    """Of torch and FAISS, where they are loaded."""
    loaded = {name: sys.modules.get(name) for name in ("torch", "faiss")}
    found = {"torch": "get_num_threads", "faiss": "omp_get_max_threads"}
    return {name: getattr(module, found[name])() for name, module in loaded.items() if module is not None}


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """A test that leaves other numbers of threads changes the last bits of what the next ones train."""
    before = _threads()
    yield
    after = _threads()
    if "torch" in before:
        sys.modules["torch"].set_num_threads(before["torch"])
    if "faiss" in before:
        sys.modules["faiss"].omp_set_num_threads(before["faiss"])
    assert before == {name: after[name] for name in before}
