"""Several ranks make a cache together: in the bytes of one, no image twice, whatever a kill has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mecoq_faiss.backbone import fixed_features as fixed
from mecoq_faiss.backbone import view_cache
from mecoq_faiss.backbone.feature_cache import write_together
from mecoq_faiss.backbone.network import PixelBackbone
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.data.views import ViewSpec
from mecoq_faiss.runtime.ranks import Ranks, joined
from tests.training.group import on_ranks

N, SIZE, V, BROKEN = 23, 8, 3, 5


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(N):
        Image.new("RGB", (12 + i, 16), (i, 100 - i, 7 * i)).save(tmp_path / "images" / f"{i:02d}.png")
    (tmp_path / "images" / f"{BROKEN:02d}.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def sizes_of_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back to these after each test: `make`, which other processes call too, sets its own."""
    for module, name in (
        (view_cache, "FORWARD_IMAGES"),
        (view_cache, "SHARD_IMAGES"),
        (fixed, "BATCH"),
        (fixed, "SHARD_BATCHES"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


class Counting(PixelBackbone):
    """Counts the images that it has seen, and is killed after so many batches."""

    seen, batches = 0, 0

    def __init__(self, most: int = 1000) -> None:
        super().__init__(SIZE, 0)
        self.most = most

    def for_inference(self, size: int) -> Counting:
        return self

    def forward(self, x: Any) -> Any:
        self.batches += 1
        if self.batches > self.most:
            raise SystemExit
        self.seen += len(x)
        return super().forward(x)


def make(images: Path, cache: Path, most: int = 1000) -> tuple[int, int]:
    """Both caches, of small shards; how many images and views this rank has put through the backbone."""
    view_cache.FORWARD_IMAGES, view_cache.SHARD_IMAGES = 7, 13  # 2 rows a batch, 2 batches a shard: 6 shards
    fixed.BATCH, fixed.SHARD_BATCHES = 3, 2  # 4 shards
    source = open_source(images, "train")
    seen = []
    with joined("cpu") as (ranks, _):
        common: dict[str, Any] = {"size": SIZE, "workers": 0, "folder": cache, "ranks": ranks}
        backbone = Counting()
        fixed.fixed_features(source, backbone, **common)
        seen.append(backbone.seen)
        backbone = Counting(most)
        view_cache.cached_view_features(source, backbone, spec=ViewSpec(), num_views=V, seed=9, **common)  # type: ignore[arg-type]
        seen.append(backbone.seen)
    return seen[0], seen[1]


def make_and_lose(images: Path, folder: Path) -> list[tuple[int, int]]:
    """What a rank has seen of caches made by all, made a second time, and left after two batches of views each."""
    found = [make(images, folder / "of-2"), make(images, folder / "of-2")]
    with pytest.raises(SystemExit):
        make(images, folder / "lost", most=2)
    return found


def content(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.iterdir() if not path.name.startswith(".")}


def test_several_ranks_make_the_bytes_of_one_and_no_image_twice(images: Path, tmp_path: Path) -> None:
    alone = make(images, tmp_path / "alone")
    first, second = on_ranks(2, make_and_lose, images, tmp_path)
    assert alone == (N, N * V)
    assert content(tmp_path / "of-2") == content(tmp_path / "alone")
    for of_first, of_second, of_one in zip(first[0], second[0], alone, strict=True):
        assert of_first + of_second == of_one and min(of_first, of_second) > of_one / 4
    assert first[1] == second[1] == (0, 0), "it is there"
    fixed_seen, views_seen = make(images, tmp_path / "lost")  # goes on by itself
    assert content(tmp_path / "lost") == content(tmp_path / "alone")
    assert fixed_seen == 0 and views_seen == N * V - 2 * (2 * 2 * V), "each had made a shard of two batches"


@pytest.mark.slow
def test_another_number_of_ranks_continues(images: Path, tmp_path: Path) -> None:
    make(images, tmp_path / "alone")
    on_ranks(2, make_and_lose, images, tmp_path)
    seen = on_ranks(3, make, images, tmp_path / "lost")
    assert content(tmp_path / "lost") == content(tmp_path / "alone")
    assert sum(views for _, views in seen) == N * V - 2 * (2 * 2 * V)


def test_a_rank_that_does_not_see_the_first_ones_folder_says_so(tmp_path: Path) -> None:
    class Second(Ranks):
        def told(self, content: bytes = b"") -> bytes:
            return b"[0, 1]"

    with pytest.raises(OSError, match="is not seen here: all ranks need one cache folder"):
        write_together(tmp_path / "x.h5", {"a": 1}, lambda start, stop: [], 4, 2, Second(1, 2))
