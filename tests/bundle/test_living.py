"""Any sequence of changes and stopped updates ends in what a fresh export of the final collection holds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train, update
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.index import load_index, read_codes

EVENTS = ("replace", "rename", "fsync", "link", "unlink", "mkdir")
CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "rename", "alter", "touch"]), st.integers(0, 99)), max_size=6
)
STOPS = st.none() | st.integers(0, 60)


class Stopped(BaseException):
    """What nothing but `finally` sees."""


@contextmanager
def stopped_at(event: int) -> Iterator[None]:
    """The file event of this number, from 0, does not happen; nor does any later one."""
    left = [event]

    def counted(name: str):
        real = getattr(os, name)

        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return real(*arguments, **options)

        return patch.object(os, name, call)

    patches = [counted(name) for name in EVENTS]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def change(photos: Path, way: str, number: int, clock: int) -> None:
    """One change of the collection, of which at least one image stays."""
    there = sorted(photos.iterdir())
    chosen = there[number % len(there)]
    match way:
        case "add":
            picture(photos / f"new-{clock}.png", clock)
        case "remove" if len(there) > 1:
            chosen.unlink()
        case "rename":
            chosen.rename(photos / f"renamed-{clock}.png")
        case "alter":
            picture(chosen, 1000 + clock)
        case "touch":
            os.utime(chosen, ns=(clock, clock))


def content(bundle: Path) -> dict[str, bytes]:
    """Path -> code of every item, as index and items tell it alike; each has an id of its own."""
    with pinned(bundle) as files, items_in(files) as items:
        np.testing.assert_array_equal(read_codes(load_index(files.file("index.faiss"))), items.codes)
        assert len(set(items.ids.tolist())) == len(items)
        return {path: code.tobytes() for path, code in zip(items.all_paths(), items.codes, strict=True)}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of 8 px, a run and a bundle."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "photos").mkdir()
    for i in range(12):
        picture(folder / "photos" / f"{i}.png", i)
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=8, hidden=8, nbits=4)
    train(folder / "photos", folder / "run", model, TrainConfig(epochs=1, batch_size=6, cached_views=2))
    export_index(folder / "run", folder / "photos", folder / "bundle", workers=0)
    return folder


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(CHANGES, STOPS), min_size=1, max_size=3), compact=st.booleans())
def test_any_changes_and_stops_equal_a_fresh_export(
    start: Path, rounds: list[tuple[list[tuple[str, int]], int | None]], compact: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        photos, bundle = Path(place) / "photos", Path(place) / "bundle"
        shutil.copytree(start / "photos", photos)
        shutil.copytree(start / "bundle", bundle)
        clock = 100
        for changes, stop in rounds:
            for way, number in changes:
                clock += 1
                change(photos, way, number, clock)
            try:
                with stopped_at(10**9 if stop is None else stop):
                    update(bundle, photos, workers=0)
            except Stopped:
                content(bundle)  # the old generation or the new one, whole
        update(bundle, photos, workers=0, compact=compact)
        export_index(start / "run", photos, Path(place) / "fresh", workers=0)
        assert content(bundle) == content(Path(place) / "fresh")
        assert sorted(path.name for path in Path(place).iterdir()) == ["bundle", "fresh", "photos"]
