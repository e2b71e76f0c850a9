"""Fixed features: the backbone of each image's one view, of the readable images, kept in a cache file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mecoq_faiss.backbone import fixed_features as module
from mecoq_faiss.backbone.feature_cache import fingerprint
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.backbone.network import Backbone, create_backbone
from mecoq_faiss.data.crop import fixed_view
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import to_float

N, BROKEN = 130, 5


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that do not divide: 16 rows a batch, 2 batches a shard."""
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "SHARD_BATCHES", 2)


@pytest.fixture
def source(tmp_path: Path, photos: Path) -> ImageSource:
    """Photos, one of which cannot be read."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / f"{BROKEN:03}.png").write_bytes(b"no picture")
    opened = open_source(folder, "database")
    assert isinstance(opened, ImageSource)
    return opened


@pytest.fixture
def backbone() -> Backbone:
    return create_backbone("pixels", "none", image_size=8)


@pytest.mark.parametrize("workers", [0, 2])
def test_fixed_features_are_the_backbones_and_are_kept(
    workers: int, source: ImageSource, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, rows = fixed_features(source, backbone, size=8, workers=workers, folder=tmp_path / "cache")
    readable = [i for i in range(N) if i != BROKEN]
    assert rows.tolist() == readable and features.shape == (N - 1, 192) and features.dtype == np.float32
    views = torch.stack([torch.from_numpy(fixed_view(source.open(i), 8)) for i in readable])
    np.testing.assert_allclose(features, backbone(to_float(views)).numpy(), atol=1e-6)
    monkeypatch.setattr(Backbone, "forward", None)
    again, _ = fixed_features(source, backbone, size=8, workers=workers, folder=tmp_path / "cache")
    assert np.array_equal(features, again)


def test_a_stopped_one_continues(
    source: ImageSource, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fixed_features(source, backbone, size=8, workers=0, folder=tmp_path / "whole")
    forward = Backbone.forward
    seen: list[int] = []

    def counting(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(images))
        return forward(backbone, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Backbone, "forward", counting)
        fixed_features(source, backbone, size=8, workers=0, folder=tmp_path / "cache")
    seen[:] = [-1] * 4  # never three again
    monkeypatch.setattr(Backbone, "forward", counting)
    features, _ = fixed_features(source, backbone, size=8, workers=0, folder=tmp_path / "cache")
    assert seen[4:] == [16] * 6 + [2], "one shard of two batches was there"
    np.testing.assert_array_equal(features, whole)


def test_features_are_their_own_and_of_several_views_the_first(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    backbone = create_backbone("features", feature_dim=5)
    features, rows = fixed_features(
        open_source(tmp_path / "x.npy", "train"), backbone, size=8, folder=tmp_path / "cache"
    )
    np.testing.assert_array_equal(features, x[:, 0])
    assert rows.tolist() == list(range(7)) and not (tmp_path / "cache").exists()


def test_no_readable_image(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no readable image"):
        fixed_features(open_source(tmp_path, "train"), backbone, size=8, workers=0, folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.h5"))


def test_the_key_is_of_what_the_features_depend_on(
    source: ImageSource, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a CPU it is that of files which were made before the device was said."""
    keys: dict[str, dict[str, Any]] = {}
    for device in ("cpu", "cuda", "cuda:1", "meta"):
        monkeypatch.setattr(module, "from_cache", lambda prefix, key, *more, d=device: keys.setdefault(d, key))
        fixed_features(source, backbone, size=8, device=device)
    common = {"format": 1, "data": source.fingerprint, "size": 8, "backbone": fingerprint(backbone)}
    assert keys["cpu"] == common
    assert keys["cuda"] == keys["cuda:1"] == common | {"device": "cuda"}
    assert keys["meta"] == common | {"device": "meta"}
