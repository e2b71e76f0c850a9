"""A bundle that stays open: its answers from many threads, and another export taking its place."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, open_bundle, train
from mecoq_faiss.bundle.folder import ITEMS, read_items
from mecoq_faiss.bundle.generation import Generation
from mecoq_faiss.jobs.search import search

N = 200
THREADS, SEARCHES = 8, 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b`: the same pictures in another order and under other names, with own ids; runs of 8 and 4 bits."""
    folder = tmp_path_factory.mktemp("opened")
    rng = np.random.default_rng(0)
    for i in range(N):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        for name, place in (("a", i), ("b", N - 1 - i)):
            (folder / name).mkdir(exist_ok=True)
            picture.save(folder / name / f"{name}{place:03}.png")
    for nbits in (8, 4):
        model = ModelConfig(backbone="pixels", weights="none", image_size=8, hidden=16, D=16, M=4, nbits=nbits)
        config = TrainConfig(epochs=1, batch_size=50, cached_views=2, workers=0)
        train(folder / "a", folder / f"run{nbits}", model, config)
    for name, first in (("a", 1000), ("b", 5000)):
        export_index(
            folder / "run8", folder / name, folder / f"bundle-{name}", ids=np.arange(first, first + N), workers=0
        )
    return folder


@pytest.fixture
def bundles(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    return tuple(shutil.copytree(made / f"bundle-{name}", tmp_path / name) for name in "ab")  # type: ignore[return-value]


def swap(one: Path, other: Path) -> None:
    away = one.with_name("away")
    one.rename(away)
    other.rename(one)
    away.rename(other)


def test_what_it_shows(bundles: tuple[Path, Path], made: Path) -> None:
    path = made / "a" / "a003.png"
    with open_bundle(bundles[0]) as bundle:
        assert len(bundle) == bundle.manifest["counts"]["items"] == bundle.index.ntotal == N
        assert bundle.paths([3, 0, 3]) == ["a003.png", "a000.png", "a003.png"] and bundle.paths([]) == []
        (hits,) = bundle.search(path)
        D, I = bundle.index.search(bundle.encoder.encode(path), 10)  # plain FAISS
        assert [(hit.score, hit.id) for hit in hits] == list(zip(D[0].tolist(), I[0].tolist(), strict=True))
        assert hits[0]._fields == ("rank", "score", "row", "path", "id")
        assert [hit.rank for hit in hits] == list(range(1, 11))
        assert [hit.row for hit in hits] == [hit.id - 1000 for hit in hits]
        assert [hit.path for hit in hits] == [f"a{hit.row:03}.png" for hit in hits]
        assert [tuple(map(type, hit)) for hit in hits[:1]] == [(int, float, int, str, int)]
        assert bundle.search([]) == []
        assert len(bundle.search(path, N)[0]) == N
        assert (hits, search(bundles[0], [path])) == (bundle.search([path], 10)[0], [hits])
        for rows in ([N], [-1, 0]):
            with pytest.raises(ValueError, match=f"give 0 to {N - 1}"):
                bundle.paths(rows)
        for k in (0, N + 1):
            with pytest.raises(ValueError, match=f"the bundle has {N} items"):
                bundle.search(path, k)


def test_queries_of_every_sort(bundles: tuple[Path, Path], made: Path) -> None:
    path = made / "a" / "a003.png"
    with open_bundle(bundles[0]) as bundle, Image.open(path) as picture, open(path, "rb") as file:
        expected = bundle.search(path, 3)
        array = np.asarray(picture)
        for query in (str(path), path.read_bytes(), file, picture, array, array[None], [path], (str(path),)):
            assert bundle.search(query, 3) == expected, type(query)
        together = bundle.search([path, picture, array], 3)
        assert [[hit.id for hit in hits] for hits in together] == 3 * [[hit.id for hit in expected[0]]]
        for hits in together:  # other batches, other last bits
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected[0]], abs=1e-5)


def test_features_each_row_of_a_file_is_a_query(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    model = ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=4, nbits=4)
    train(tmp_path / "x.npy", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=20, workers=0))
    export_index(tmp_path / "run", tmp_path / "x.npy", tmp_path / "bundle", workers=0)
    with open_bundle(tmp_path / "bundle") as bundle:
        expected = bundle.search(x, 2)
        assert len(expected) == 40 and expected == bundle.search(tmp_path / "x.npy", 2)
        assert [hit.row for hit in expected[3]] == [hit.row for hit in bundle.search(x[3], 2)[0]]
        assert bundle.search([], 2) == []


def test_answers_from_many_threads(made: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": "ivfpqfs", "nlist": 8, "nprobe": 3, "refine": True}
    export_index(made / "run4", made / "a", tmp_path / "lists", ids=np.arange(N) * 3 + 7, workers=0, **options)
    for bundle_path in (made / "bundle-a", tmp_path / "lists"):
        with open_bundle(bundle_path) as bundle:
            queries = [made / "a" / f"a{i:03}.png" for i in range(THREADS * SEARCHES)]
            serial = [bundle.search(query, 5) for query in queries]
            with ThreadPoolExecutor(THREADS) as pool:
                assert list(pool.map(lambda query: bundle.search(query, 5), queries)) == serial


def test_only_chosen_ids(made: Path, tmp_path: Path) -> None:
    path = made / "a" / "a003.png"
    export_index(made / "run8", made / "a", tmp_path / "lists", kind="ivfpq", nlist=8, nprobe=3, workers=0)
    with open_bundle(tmp_path / "lists") as bundle:
        first, second = bundle.search(path, 2)[0]
        assert bundle.search(path, 2, where=[second.id, N]) == [[second._replace(rank=1)]]
        assert bundle.search(path, 2, where=[second.id, first.id]) == [[first, second]]


def test_another_export_is_taken_up_while_threads_search(bundles: tuple[Path, Path], made: Path) -> None:
    queries = [made / "a" / f"a{i:03}.png" for i in range(SEARCHES)]
    expected = [[search(bundle, query, 5) for query in queries] for bundle in map(str, bundles)]
    assert not any(old == new for old, new in zip(*expected, strict=True))
    begun = threading.Semaphore(0)
    with open_bundle(bundles[0]) as bundle:
        assert bundle.reload() is False

        def work(_: int) -> list[int]:
            """Which export each answer is of."""
            seen = []
            for _ in range(3):
                for number, query in enumerate(queries):
                    answer = bundle.search(query, 5)
                    seen.append([answers[number] for answers in expected].index(answer))
                    begun.release()
            return seen

        with ThreadPoolExecutor(THREADS) as pool:
            tasks = [pool.submit(work, number) for number in range(THREADS)]
            for _ in range(3 * THREADS):
                begun.acquire()
            before = bundle.manifest
            swap(*bundles)
            assert bundle.manifest == before  # as it was opened
            assert bundle.reload() is True and bundle.reload() is False
            number = [answers[0] for answers in expected].index(bundle.search(queries[0], 5))
            seen = [task.result() for task in tasks]
        assert number == 1 and {export for of_thread in seen for export in of_thread} == {0, 1}
        assert all(of_thread == sorted(of_thread) for of_thread in seen)  # never back to the old one


@pytest.mark.parametrize("how", ["reload", "close"])
def test_a_search_under_way_finishes_on_the_export_it_began_with(
    bundles: tuple[Path, Path], made: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Held after FAISS's search and before the paths are read, while the export is taken away."""
    path = made / "a" / "a003.png"
    held, go = threading.Event(), threading.Event()
    paths = Generation.paths

    def slow(generation: Generation, rows: np.ndarray) -> list[str]:
        if threading.current_thread() is not threading.main_thread():
            held.set()
            assert go.wait(30)
        return paths(generation, rows)

    bundle = open_bundle(bundles[0])
    old = bundle.search(path, 3)
    monkeypatch.setattr(Generation, "paths", slow)
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(bundle.search, path, 3)
        assert held.wait(30)
        if how == "reload":
            swap(*bundles)
            assert bundle.reload()
            shutil.rmtree(bundles[1])
        else:
            bundle.close()
        go.set()
        assert task.result() == old
    if how == "reload":
        monkeypatch.undo()
        assert bundle.search(path, 3) != old
    bundle.close()


def test_closed(bundles: tuple[Path, Path], made: Path) -> None:
    with open_bundle(bundles[0]) as bundle:
        pass
    bundle.close()
    calls: list[Callable[[], object]] = [
        lambda: bundle.search(made / "a" / "a003.png"), lambda: len(bundle), lambda: bundle.index, bundle.reload,
        lambda: bundle.manifest, lambda: bundle.encoder, lambda: bundle.paths([0]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"^the bundle .* is closed: open it again with open_bundle$"):
            call()


def test_closed_while_another_export_is_loaded(bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, loaded = open_bundle(bundles[0]), []

    def load(*arguments: Any) -> Generation:
        loaded.append(Generation(*arguments))
        bundle.close()
        return loaded[0]

    swap(*bundles)
    monkeypatch.setattr(bundle, "_opener", load)
    with pytest.raises(ValueError, match="is closed: open it again"):
        bundle.reload()
    with pytest.raises(ValueError, match="is closed: open it again"):
        bundle.search(bundles[0], 1)
    assert len(loaded) == 1


def test_a_damaged_one_is_not_taken_up(bundles: tuple[Path, Path], made: Path) -> None:
    path = made / "a" / "a003.png"
    with open(bundles[1] / ITEMS, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ValueError, match=r"items\.h5 differs from the manifest"):
        open_bundle(bundles[1])
    with open_bundle(bundles[0]) as bundle:
        before = bundle.search(path, 3)
        swap(*bundles)
        with pytest.raises(ValueError, match=r"items\.h5 differs from the manifest"):
            bundle.reload()
        shutil.rmtree(bundles[0])
        with pytest.raises(FileNotFoundError, match="not a bundle"):
            bundle.reload()
        assert bundle.search(path, 3) == before
        bundles[1].rename(bundles[0])
        assert bundle.reload() is False  # its own again


def test_nothing_stays_open(bundles: tuple[Path, Path], made: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc/self/fd here")
    path = made / "a" / "a003.png"
    search(bundles[0], [path], 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with open_bundle(bundles[0]) as bundle:
            opened = len(os.listdir("/proc/self/fd"))
            swap(*bundles)
            assert bundle.reload() and len(os.listdir("/proc/self/fd")) == opened
            (bundles[1] / "index.faiss").rename(bundles[1] / "kept")
            with pytest.raises(ValueError, match=r"lacks index\.faiss"):
                open_bundle(bundles[1])
            (bundles[1] / "kept").rename(bundles[1] / "index.faiss")
            bundle.search(path, 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_index_stays_whole_without_its_bundle(bundles: tuple[Path, Path], made: Path) -> None:
    with open_bundle(bundles[0]) as bundle:
        index, encoder = bundle.index, bundle.encoder
    z = encoder.encode(made / "a" / "a003.png")
    expected = faiss.read_index(str(bundles[0] / "index.faiss")).search(z, 4)
    for got, wanted in zip(index.search(z, 4), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(z, load_encoder(bundles[0]).encode(made / "a" / "a003.png"))
    assert len(read_items(bundles[0] / ITEMS)["ids"]) == N
