"""The view cache: the backbone on views made one by one, computed once, for exactly what it was computed for."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mecoq_faiss.backbone import view_cache
from mecoq_faiss.backbone.feature_cache import fingerprint
from mecoq_faiss.backbone.network import Backbone, create_backbone
from mecoq_faiss.backbone.view_cache import cached_view_features
from mecoq_faiss.data.crop import crop
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import ViewSpec, apply_color, draw_view

N, SIZE, V, BROKEN = 23, 8, 3, 5


def photo(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (12 + i, 16, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(N):
        photo(i).save(root / f"{i:02d}.png")
    (root / f"{BROKEN:02d}.png").write_bytes(b"no image")
    return root


class Counting(Backbone):
    """A small backbone that counts the images it has seen."""

    def __init__(self, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6))
        super().__init__(net, 6)
        with torch.no_grad():
            net.get_parameter("3.weight").mul_(scale)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch, tmp_path):
    """Sizes that do not divide: 4 rows a batch of the backbone, 2 batches a shard."""
    monkeypatch.setattr(view_cache, "FORWARD_IMAGES", 14)
    monkeypatch.setattr(view_cache, "SHARD_IMAGES", 25)
    monkeypatch.setenv("MECOQ_FAISS_CACHE", str(tmp_path / "cache"))


def features_of(folder: Path, backbone: Backbone, spec: ViewSpec | None = None, **options):
    settings = {"size": SIZE, "num_views": V, "seed": 9, "workers": 0} | options
    source = open_source(folder, "train")
    assert isinstance(source, ImageSource)
    return cached_view_features(source, backbone, spec=spec or ViewSpec(), **settings)


def files(tmp_path: Path) -> list[str]:
    return sorted(name for name in os.listdir(tmp_path / "cache") if not name.startswith("."))


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_the_backbones_of_each_view_made_by_itself(folder, workers, tmp_path):
    backbone = Counting()
    features, rows = features_of(folder, backbone, workers=workers)
    readable = [i for i in range(N) if i != BROKEN]
    assert rows.tolist() == readable and rows.dtype == np.int64
    assert features.shape == (N - 1, V, 6) and features.dtype == np.float16
    assert isinstance(features, np.memmap)
    for row, of_row in zip(readable, features, strict=True):
        for number in range(V):
            view = draw_view(ViewSpec(), *photo(row).size, (9, number, row))
            image = apply_color(
                torch.from_numpy(crop(photo(row), view.box, SIZE))[None], torch.from_numpy(view.color)[None]
            )
            np.testing.assert_allclose(of_row[number], backbone(image)[0], rtol=2e-3, atol=2e-3)
    assert len(files(tmp_path)) == 1


def test_the_second_time_the_backbone_does_not_run(folder):
    first, _ = features_of(folder, Counting())
    again = Counting()
    second, rows = features_of(folder, again)
    assert again.seen == 0 and len(rows) == N - 1
    np.testing.assert_array_equal(first, second)


def test_each_thing_that_the_content_depends_on_makes_a_new_file(folder, tmp_path):
    def new_file(folder: Path = folder, backbone: Backbone | None = None, **options) -> bool:
        before = files(tmp_path) if (tmp_path / "cache").exists() else []
        features_of(folder, backbone or Counting(), **options)
        return len(files(tmp_path)) == len(before) + 1

    assert new_file()
    assert not new_file()
    assert new_file(seed=10)
    assert new_file(size=9, backbone=create_backbone("pixels", image_size=9))
    assert new_file(num_views=2)
    assert new_file(spec=ViewSpec(blur=0.4))
    assert new_file(spec=ViewSpec(jitter=(0.4, 0.4, 0.4, 0.2)))
    assert new_file(backbone=Counting(scale=1.5))
    normed = Counting()
    normed.mean += 0.1
    assert new_file(backbone=normed)
    sigmoid = Counting()
    sigmoid.net[1] = nn.Sigmoid()  # the same tensors in another architecture
    assert new_file(backbone=sigmoid)
    photo(99).save(folder / "00.png")
    assert new_file()
    (folder / "01.png").unlink()
    assert new_file()
    assert not new_file(workers=2)
    assert new_file(bf16=True)


def keys_of(monkeypatch: pytest.MonkeyPatch, ask) -> dict:
    """Device -> the key under which `ask` looks for its file, without computing anything."""
    seen: dict = {}
    for device in ("cpu", "cuda", "cuda:1", "meta"):
        monkeypatch.setattr(view_cache, "from_cache", lambda prefix, key, *more, d=device: seen.setdefault(d, key))
        ask(device)
    return seen


def test_caches_of_another_kind_of_device_are_other_files(folder, monkeypatch):
    backbone = Counting()
    keys = keys_of(monkeypatch, lambda device: features_of(folder, backbone, device=device))
    assert "device" not in keys["cpu"]  # as in files that were made before the device was said
    assert keys["cuda"] == keys["cuda:1"] == keys["cpu"] | {"device": "cuda"}
    assert keys["meta"] == keys["cpu"] | {"device": "meta"}


def test_the_key_of_a_cpu_is_that_of_files_made_before(folder, monkeypatch):
    source, backbone = open_source(folder, "train"), Counting()
    spec = json.loads(json.dumps(asdict(ViewSpec())))
    spec["grey"] = spec.pop("gray")  # version 0.1's name of it
    common = {"format": 1, "data": source.fingerprint, "size": SIZE, "backbone": fingerprint(backbone)}
    keys = keys_of(monkeypatch, lambda device: features_of(folder, backbone, device=device))
    assert keys["cpu"] == common | {"views": spec, "num_views": V, "seed": 9}


def test_bfloat16_rounds_the_features(folder):
    exact, _ = features_of(folder, Counting())
    rounded, _ = features_of(folder, Counting(), bf16=True)
    assert (exact != rounded).any()
    np.testing.assert_allclose(exact, rounded, rtol=0.05, atol=0.02)


def test_a_stopped_cache_continues(folder, tmp_path):
    whole, rows = features_of(folder, Counting())
    whole = np.array(whole)
    shutil.rmtree(tmp_path / "cache")

    class Stopping(Counting):
        def forward(self, images):
            if self.seen >= 30:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        features_of(folder, Stopping())
    (parts,) = files(tmp_path)
    assert parts.endswith(".parts")
    rest = Counting()
    continued, continued_rows = features_of(folder, rest)
    assert rest.seen == N * V - 24  # one shard of 2 batches of 4 rows was there
    np.testing.assert_array_equal(continued, whole)
    np.testing.assert_array_equal(continued_rows, rows)
    assert len(files(tmp_path)) == 1


def test_a_damaged_file_is_made_anew(folder, tmp_path):
    features_of(folder, Counting())
    (name,) = files(tmp_path)
    path = tmp_path / "cache" / name
    path.write_bytes(path.read_bytes()[:50])
    again = Counting()
    features, _ = features_of(folder, again)
    assert again.seen == N * V and len(features) == N - 1


@pytest.mark.parametrize("scale", [1e7, float("nan")])
def test_features_beyond_float16_are_refused(folder, tmp_path, scale):
    with pytest.raises(ValueError, match=r"float16's 65504.*--no-view-cache"):
        features_of(folder, Counting(scale))
    assert not any(name.endswith(".h5") for name in files(tmp_path))


def test_no_readable_image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no readable image"):
        features_of(tmp_path / "images", Counting())
    assert files(tmp_path) == []


def test_no_space(folder, tmp_path, monkeypatch):
    needed = 2 * N * V * 6 * 2  # float16, twice
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed - 1))
    with pytest.raises(OSError, match=r"view cache needs .* GB .*MECOQ_FAISS_CACHE.*cached_views.*--no-view-cache"):
        features_of(folder, Counting())
    assert files(tmp_path) == []
    parts = tmp_path / "cache" / "views-x.h5.parts"
    parts.mkdir()
    (parts / "000000.h5").write_bytes(b"x" * 100)
    view_cache._check_space(tmp_path / "cache" / "views-x.h5", (needed + 98) // 2)  # what is there already counts
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed))
    features_of(folder, Counting())
