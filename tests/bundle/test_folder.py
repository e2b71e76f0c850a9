"""A bundle is read as one export, also while another takes its place; and what is said of one that was altered."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, load_encoder, train
from mecoq_faiss.bundle.folder import INDEX, ITEMS, pinned, read_manifest
from mecoq_faiss.bundle.generation import Hit
from mecoq_faiss.jobs.search import search

N = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of the same pictures, each under its own names and in its own order; a query; and the run."""
    folder = tmp_path_factory.mktemp("bundles")
    rng = np.random.default_rng(0)
    for i in range(N):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        for name, place in (("a", i), ("b", N - 1 - i)):
            path = folder / name / f"class{place % 2}" / f"{name}{place:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    model = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=16, D=16, M=2)
    train(folder / "a", folder / "run", model, TrainConfig(epochs=1, batch_size=4, cached_views=2, workers=0))
    for name in "ab":
        export_index(folder / "run", folder / name, folder / f"bundle-{name}", workers=0)
    return folder


@pytest.fixture
def bundles(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    return tuple(shutil.copytree(made / f"bundle-{name}", tmp_path / name) for name in "ab")  # type: ignore[return-value]


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[list[int]]:
    """The two folders change places again and again; how often, in a list of one."""
    done, count = threading.Event(), [0]

    def exchange() -> None:
        away = one.with_name("away")
        while not done.wait(0.002):
            one.rename(away)
            other.rename(one)
            away.rename(other)
            count[0] += 1

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield count
    finally:
        done.set()
        thread.join()


def test_every_answer_is_of_one_export(bundles: tuple[Path, Path], made: Path) -> None:
    query = [made / "a" / "class1" / "a03.png"]

    def answer(bundle: Path) -> list[Hit]:
        return search(bundle, query, 3)[0]

    known = [answer(bundle) for bundle in bundles]
    assert [hits[0].path for hits in known] == ["class1/a03.png", "class0/b08.png"]
    seen = [0, 0]
    with exchanged(*bundles) as count:
        for _ in range(150):
            seen[known.index(answer(bundles[0]))] += 1
    assert count[0] > 50 and min(seen) > 5, (count, seen)


def test_every_evaluation_is_of_one_export(bundles: tuple[Path, Path], made: Path) -> None:
    """The other bundle's items are all of one class."""
    labels = bundles[1] / ITEMS
    with h5py.File(labels, "r+") as file:
        file["labels"][...] = 0
    rewrite_manifest(bundles[1])
    known = [evaluate(bundle, made / "a", k=4, workers=0)["map"] for bundle in bundles]
    assert known[0] != known[1]
    with exchanged(*bundles):
        for _ in range(40):
            assert evaluate(bundles[0], made / "a", k=4, workers=0)["map"] in known
            load_encoder(bundles[0])  # also where the folder is away


def rewrite_manifest(bundle: Path) -> None:
    from mecoq_faiss.bundle.folder import write_manifest

    content = read_manifest(bundle)
    write_manifest(bundle, {name: value for name, value in content.items() if name not in ("format", "files")})


def test_open_files_stay_those_of_one_export(bundles: tuple[Path, Path]) -> None:
    expected = (bundles[0] / INDEX).read_bytes(), (bundles[0] / ITEMS).read_bytes()
    with pinned(bundles[0]) as files:
        shutil.rmtree(bundles[0])
        bundles[1].rename(bundles[0])
        assert (files.file(INDEX).read(), files.file(ITEMS).read()) == expected
        assert files.file(INDEX).read(4) == expected[0][:4]  # again from the start


def test_a_bundle_that_is_away_for_a_moment(bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    away = bundles[0].rename(bundles[0].with_name("away"))
    monkeypatch.setattr(time, "sleep", lambda seconds: seconds and away.exists() and away.rename(bundles[0]))
    assert read_manifest(bundles[0])["counts"]["items"] == N


def test_folders_that_are_no_bundle(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"not a bundle \(no manifest.json\)"):
            search(path, ["query.png"])
        with pytest.raises(FileNotFoundError, match="not a run folder and not a bundle"):
            load_encoder(path)
    (bundles[0] / ITEMS).unlink()
    with pytest.raises(ValueError, match=r"lacks items\.h5: export or copy"):
        search(bundles[0], ["query.png"], 1)


def test_nothing_stays_open(bundles: tuple[Path, Path], made: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc/self/fd here")
    query = [made / "a" / "class1" / "a03.png"]
    search(bundles[0], query, 3)
    before = len(os.listdir("/proc/self/fd"))
    (bundles[1] / "encoder" / "config.json").unlink()
    for _ in range(5):
        search(bundles[0], query, 3)
        for wrong in (bundles[1], made):
            with pytest.raises((ValueError, FileNotFoundError)):
                search(wrong, query, 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_images_are_added_as_the_readme_says(bundles: tuple[Path, Path], made: Path, tmp_path: Path) -> None:
    """To an index of positions and to one of own ids; the bundle's commands take the exported one only, and say so."""
    encoder, pictures = load_encoder(bundles[0]), sorted((made / "a").rglob("*.png"))[:3]
    own = tmp_path / "own"
    export_index(made / "run", made / "a", own, ids=np.arange(100, 100 + N), workers=0)
    for bundle, new in ((bundles[0], [N, N + 1, N + 2]), (own, [7, 8, 9])):
        index = faiss.read_index(str(bundle / INDEX))
        if bundle == own:
            index.add_with_ids(encoder.encode(pictures), np.array(new))
        else:
            index.add(encoder.encode(pictures))
        faiss.write_index(index, str(tmp_path / "mine.faiss"))
        found = faiss.read_index(str(tmp_path / "mine.faiss")).search(encoder.encode(pictures), 2)[1]  # twins
        assert [set(row) & set(new) for row in found.tolist()] == [{id} for id in new]
        search(bundle, pictures)
        shutil.copy(tmp_path / "mine.faiss", bundle / INDEX)
        with pytest.raises(
            ValueError, match=r"index\.faiss differs .* added to is searched with FAISS itself"
        ) as error:
            search(bundle, pictures)
        assert "\n" not in str(error.value)
