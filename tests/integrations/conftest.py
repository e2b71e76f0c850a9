"""A small bundle in its folder, and the lines of docs/guides/clients.md, which the tests of each client run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import Bundle, ModelConfig, TrainConfig, export_index, open_bundle, train

N = 60
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` of two classes, `years.csv`, of these `run`, `bundle` and `bundle-ids`; `query.png` is b/07.

    `features` is a bundle of additive codes of `rows.npy`.
    """
    folder = tmp_path_factory.mktemp("clients")
    rng = np.random.default_rng(0)
    rows = ["path,year"]
    for i in range(N):
        name = f"{'ab'[i % 2]}/{i:02}.png"
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        small.resize((40, 30), Image.Resampling.BILINEAR).save(folder / "photos" / name)
        rows.append(f"{name},{2000 + i}")
    (folder / "years.csv").write_text("\n".join(rows))
    (folder / "query.png").write_bytes((folder / "photos" / "b" / "07.png").read_bytes())
    model = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=16, D=16, M=4)
    train(folder / "photos", folder / "run", model, TrainConfig(epochs=1, batch_size=30, cached_views=2, workers=0))
    export_index(folder / "run", folder / "photos", folder / "bundle", metadata=folder / "years.csv", workers=0)
    export_index(folder / "bundle", None, folder / "bundle-ids", codes=folder / "bundle", ids="auto")
    np.save(folder / "rows.npy", rng.normal(size=(N, 12)).astype(np.float32))
    additive = ModelConfig(hidden=16, D=16, M=4, nbits=4, codes="additive")
    train(folder / "rows.npy", folder / "run-features", additive, TrainConfig(epochs=1, batch_size=30))
    export_index(folder / "run-features", folder / "rows.npy", folder / "features", workers=0)
    return folder


@pytest.fixture
def bundle(home: Path) -> Iterator[Bundle]:
    with open_bundle(home / "bundle") as opened:
        yield opened


@pytest.fixture
def documented(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Run a section's lines in that folder; gives the names that they set."""
    monkeypatch.chdir(home)

    def run(section: str) -> dict[str, Any]:
        text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
        names: dict[str, Any] = {}
        for lines in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(lines, f"{PAGE.name}: {section}", "exec"), names)
        return names

    return run
