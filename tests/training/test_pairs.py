"""Batches of two views: order, views, and going on in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.data.views import ViewSpec
from mecoq_faiss.training.pairs import CachedPairs, FeaturePairs, ImagePairs, Pairs

N, V, BATCH = 23, 3, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images, each of one colour that tells which it is; numbers 3 and 4 are broken."""
    path = tmp_path_factory.mktemp("images")
    for i in range(N):
        Image.new("RGB", (12, 10), (10 * i, 255 - 10 * i, 0)).save(path / f"{i:02}.png")
    for i in (3, 4):
        (path / f"{i:02}.png").write_bytes(b"broken")
    return path


def make(kind: str, folder: Path, batch: int = BATCH) -> Pairs:
    if kind == "cached":  # feature = [row, view]
        grid = np.stack(np.meshgrid(np.arange(N), np.arange(V), indexing="ij"), axis=-1)
        return CachedPairs(grid.astype(np.float16), batch, 7, "cpu")
    if kind == "features":
        return FeaturePairs(np.tile(np.arange(1, N + 1, dtype=np.float32)[:, None], (1, 400)), 0.25, batch, 7, "cpu")
    spec = ViewSpec(jitter_p=0.0, gray=0.0, blur=0.0)
    source = open_source(folder, "train")
    assert isinstance(source, ImageSource)
    return ImagePairs(ImageLoader(source, 6, spec=spec, seed=7, workers=0), batch, 7, "cpu")


KINDS = ("cached", "features", "images")


@pytest.mark.parametrize("kind", KINDS)
def test_start_step_continues_with_the_very_same_batches(kind: str, folder: Path) -> None:
    pairs = make(kind, folder)
    whole = list(pairs.batches(2))
    assert len(whole) == pairs.steps_per_epoch == 5
    for start in range(6):
        rest = list(make(kind, folder).batches(2, start))
        assert len(rest) == 5 - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert torch.equal(a.view1, b.view1) and torch.equal(a.view2, b.view2)
    assert not torch.equal(next(iter(pairs.batches(3))).view1, whole[0].view1)


def test_every_epoch_is_a_permutation_with_the_last_partial_batch(folder: Path) -> None:
    for epoch in (1, 2):
        batches = list(make("cached", folder).batches(epoch))
        assert [len(b.view1) for b in batches] == [5, 5, 5, 5, 3]
        seen = torch.cat([b.view1[:, 0] for b in batches]).tolist()
        assert sorted(seen) == list(range(N)) and seen != sorted(seen)


def test_a_last_batch_of_one_is_left_out(folder: Path) -> None:
    assert make("cached", folder, batch=11).steps_per_epoch == 2
    assert make("cached", folder, batch=N).steps_per_epoch == 1
    assert make("cached", folder, batch=21).steps_per_epoch == 2


def test_cached_views_are_two_different_ones_of_each_image(folder: Path) -> None:
    drawn = set()
    for epoch in range(1, 30):
        for pair in make("cached", folder).batches(epoch):
            view1, view2 = pair[:2]
            assert torch.equal(view1[:, 0], view2[:, 0]) and (view1[:, 1] != view2[:, 1]).all()
            drawn |= {(int(a), int(b)) for a, b in zip(view1[:, 1], view2[:, 1], strict=True)}
    assert len(drawn) == V * (V - 1)


def test_cached_views_from_a_file(folder: Path, tmp_path: Path) -> None:
    array = make("cached", folder).features  # type: ignore[attr-defined]
    np.save(tmp_path / "f.npy", array)
    from_file = CachedPairs(open_source(tmp_path / "f.npy", "train").features, BATCH, 7, "cpu")  # type: ignore[union-attr]
    for a, b in zip(from_file.batches(1), make("cached", folder).batches(1), strict=True):
        assert torch.equal(a.view1, b.view1) and torch.equal(a.view2, b.view2)


def test_feature_dropout_keeps_the_mean_and_differs_between_views(folder: Path) -> None:
    for pair in make("features", folder).batches(1):
        view1, view2 = pair[:2]
        rows = view1.max(dim=1).values * 0.75  # every feature of a row is row / 0.75, or dropped
        for view in (view1, view2):
            kept = (view > 0).float()
            torch.testing.assert_close(view, kept * rows[:, None] / 0.75)
            assert 0.65 < kept.mean() < 0.85
        assert not torch.equal(view1, view2)


def test_image_views_show_one_image_and_leave_out_broken_ones(folder: Path) -> None:
    pairs = make("images", folder)
    seen = []
    for pair in pairs.batches(1):
        view1, view2 = pair[:2]
        for a, b in zip(view1, view2, strict=True):
            torch.testing.assert_close(a[0].mean(), b[0].mean(), atol=1e-3, rtol=0)
            seen.append(round(float(a[0].mean()) * 25.5))
    assert sorted(seen) == [i for i in range(N) if i not in (3, 4)]


def test_a_batch_of_broken_images_only_is_empty(folder: Path) -> None:
    source = open_source(folder, "train").subset([3, 4])
    assert isinstance(source, ImageSource)
    (pair,) = ImagePairs(ImageLoader(source, 6, spec=ViewSpec(), workers=0), 2, 0, "cpu").batches(1)
    assert pair.view1.shape == pair.view2.shape == (0, 3, 6, 6)
