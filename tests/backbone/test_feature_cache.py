"""A cache file of features: found by its key, made once, and made again where it is damaged."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from mecoq_faiss.backbone.feature_cache import fingerprint, from_cache, of_device
from mecoq_faiss.backbone.network import Backbone, create_backbone
from mecoq_faiss.storage.shards import write_in_shards

KEY = {"data": "abc", "size": 8}
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
ROWS = np.array([0, 1, 3, 4])


@pytest.fixture
def made() -> list[Path]:
    """The files that `writer` has made, in turn."""
    return []


@pytest.fixture
def writer(made: list[Path]) -> Callable[[dict[str, Any]], Callable[[Path], None]]:
    """What makes the file of a key."""

    def of(key: dict[str, Any]) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            made.append(path)
            write_in_shards(path, lambda start: iter([{"features": FEATURES, "rows": ROWS}]), 1, 1, key, require="rows")

        return write

    return of


def test_the_file_of_a_key_is_made_once(tmp_path: Path, made: list[Path], writer: Callable[..., Any]) -> None:
    for _ in range(2):
        features, rows = from_cache("views", KEY, writer(KEY), tmp_path / "new" / "cache")
        np.testing.assert_array_equal(features, FEATURES)
        np.testing.assert_array_equal(rows, ROWS)
        assert isinstance(features, np.memmap) and features.dtype == np.float32 and rows.dtype == np.int64
    assert len(made) == 1 and made[0].match("new/cache/views-*.h5")
    from_cache("views", dict(reversed(KEY.items())), writer(KEY), tmp_path / "new" / "cache")
    assert len(made) == 1, "the order of a key's entries says nothing"
    other = KEY | {"size": 9}
    from_cache("views", other, writer(other), tmp_path / "new" / "cache")
    from_cache("fixed", KEY, writer(KEY), tmp_path / "new" / "cache")
    assert len({path.name for path in made}) == 3


@pytest.mark.parametrize("left", [("key.json", ".lock"), (".lock",), ()])
def test_what_a_kill_left_beside_a_whole_file_goes(
    left: tuple[str, ...], tmp_path: Path, made: list[Path], writer: Callable[..., Any]
) -> None:
    from_cache("views", KEY, writer(KEY), tmp_path)
    parts = Path(f"{made[0]}.parts")
    parts.mkdir()
    for name in left:
        (parts / name).write_text(json.dumps({"mecoq-faiss": KEY}) if name == "key.json" else "")
    features, _ = from_cache("views", KEY, writer(KEY), tmp_path)
    np.testing.assert_array_equal(features, FEATURES)
    assert len(made) == 1 and not parts.exists()


def test_a_folder_of_anothers_beside_a_whole_file_stays(
    tmp_path: Path, made: list[Path], writer: Callable[..., Any]
) -> None:
    from_cache("views", KEY, writer(KEY), tmp_path)
    note = Path(f"{made[0]}.parts") / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    features, _ = from_cache("views", KEY, writer(KEY), tmp_path)
    np.testing.assert_array_equal(features, FEATURES)
    assert note.read_text() == "mine"


def test_without_a_folder_it_lies_in_the_cache(
    tmp_path: Path, made: list[Path], writer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MECOQ_FAISS_CACHE", str(tmp_path))
    from_cache("views", KEY, writer(KEY))
    assert [path.parent for path in made] == [tmp_path] and made[0].is_file()


@pytest.mark.parametrize("harm", ["flipped", "cut", "other key"])
def test_a_file_that_is_not_whole_is_made_again(
    harm: str, tmp_path: Path, made: list[Path], writer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from_cache("views", KEY, writer(KEY), tmp_path)
    (path,) = made
    if harm == "flipped":
        with h5py.File(path, "r+") as file:
            file["features"][1, 0] += 1
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
        writer(KEY | {"size": 9})(path)
    made.clear()
    features, rows = from_cache("views", KEY, writer(KEY), tmp_path)
    assert made == [path]
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(rows, ROWS)
    assert (f"{path} is damaged: it is made again" in caplog.text) == (harm == "flipped")


def test_of_two_at_once_one_makes_it(tmp_path: Path, made: list[Path], writer: Callable[..., Any]) -> None:
    both, results = threading.Barrier(2), []

    def ask() -> None:
        both.wait(30)
        results.append(from_cache("views", KEY, writer(KEY), tmp_path)[0])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    np.testing.assert_array_equal(results, [FEATURES, FEATURES])


def test_a_key_says_of_the_device_what_is_not_the_cpu() -> None:
    assert [of_device(device) for device in ("cpu", "cuda", "cuda:1")] == [{}, {"device": "cuda"}, {"device": "cuda"}]


def linear(scale: float = 1.0) -> Backbone:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with torch.no_grad():
        net.get_parameter("1.weight").mul_(scale)
    return Backbone(net, 5)


def test_fingerprints():
    assert fingerprint(linear()) == fingerprint(linear())
    assert len({fingerprint(b) for b in (linear(), linear(2.0), create_backbone("pixels", image_size=8))}) == 3
