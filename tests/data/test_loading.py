"""Loading: the order asked for, the same bytes from any number of workers, unreadable images named once."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mecoq_faiss.data.crop import crop, fixed_view
from mecoq_faiss.data.loading import ImageLoader, _Batch, _Views
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.data.views import ViewSpec, draw_view
from mecoq_faiss.storage.files import locked

N, SIZE, BROKEN = 11, 10, 4


def photo(i: int) -> Image.Image:
    height, width = 14 + i, 20 + 2 * i
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i in range(N):
        photo(i).save(root / f"{i:02d}.png")
    (root / f"{BROKEN:02d}.png").write_bytes((root / f"{BROKEN:02d}.png").read_bytes()[:100])
    return root


@pytest.fixture(scope="module")
def source(folder):
    return open_source(folder, "train")


ORDER = [[(7, (0, 3)), (4, (1, 2)), (0, (5, 5))], [(4, (0, 1)), (10, (8, 9))], [(1, (2, 0))]]


@pytest.mark.parametrize("workers", [0, 2])
def test_random_views_are_those_made_one_by_one_in_the_order_asked_for(source, workers):
    spec = ViewSpec(crop_scale=(0.3, 0.8))
    loader = ImageLoader(source, SIZE, spec=spec, seed=6, workers=workers)
    loaded = list(loader.batches(ORDER))
    assert [batch.rows.tolist() for batch in loaded] == [[7, 4, 0], [4, 10], [1]]
    for batch, items in zip(loaded, ORDER, strict=True):
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (len(items), 2, 3, SIZE, SIZE)
        assert batch.readable.tolist() == [row != BROKEN for row, _ in items]
        for images, colors, (row, numbers) in zip(batch.images, batch.colors, items, strict=True):
            for image, color, number in zip(images, colors, numbers, strict=True):
                if row == BROKEN:
                    assert not image.any() and not color.any()
                    continue
                view = draw_view(spec, *photo(row).size, (6, number, row))
                assert np.array_equal(image, crop(photo(row), view.box, SIZE))
                np.testing.assert_array_equal(color, view.color)


@pytest.mark.parametrize("workers", [0, 2])
def test_fixed_views(source, workers):
    loader = ImageLoader(source, SIZE, workers=workers)
    (batch,) = loader.batches([[(row, ()) for row in range(N)]])
    assert batch.images.shape == (N, 1, 3, SIZE, SIZE) and not batch.colors.any()
    for row in set(range(N)) - {BROKEN}:
        assert np.array_equal(batch.images[row, 0], fixed_view(photo(row), SIZE))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_once(source, workers, caplog):
    loader = ImageLoader(source, SIZE, workers=workers)
    with caplog.at_level(logging.WARNING, "mecoq_faiss"):
        for _ in range(2):
            list(loader.batches([[(BROKEN, ()), (1, ())], [(BROKEN, ())]]))
    assert list(loader.unreadable) == [BROKEN]
    assert len(caplog.records) == 1 and f"{BROKEN:02d}.png" in caplog.records[0].message


def test_a_subset_has_its_own_rows(source):
    loader = ImageLoader(source.subset([9, 2]), SIZE, workers=0)
    (batch,) = loader.batches([[(1, ()), (0, ())]])
    assert batch.rows.tolist() == [1, 0]
    assert np.array_equal(batch.images[0, 0], fixed_view(photo(2), SIZE))
    assert np.array_equal(batch.images[1, 0], fixed_view(photo(9), SIZE))


@pytest.mark.parametrize("kind", ["tar", "tar.xz"])
def test_a_tar_on_workers(folder, tmp_path, kind):
    path = tmp_path / f"images.{kind}"
    with tarfile.open(path, "w:xz" if kind == "tar.xz" else "w") as tar:
        tar.add(folder, arcname="images")
    items = [[(row, ()) for row in range(i, N, 3)] for i in range(3)]
    loader = ImageLoader(open_source(path, "train"), SIZE, workers=2)
    for batch in loader.batches(items):
        for row, image, readable in zip(batch.rows.tolist(), batch.images[:, 0], batch.readable, strict=True):
            assert readable == (row != BROKEN)
            assert not readable or np.array_equal(image, fixed_view(photo(row), SIZE))


def test_a_large_jpeg_is_decoded_smaller_but_never_below_the_view(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((800, 1000, 3), np.uint8)).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    source = open_source(tmp_path, "train")
    sizes = []
    opened = type(source).open
    monkeypatch.setattr(type(source), "open", lambda *a, **k: sizes.append((image := opened(*a, **k)).size) or image)
    list(ImageLoader(source, 96, workers=0).batches([[(0, ())]]))
    list(ImageLoader(source, 96, spec=ViewSpec(), workers=0).batches([[(0, (0, 1))]]))
    assert sizes == [(125, 100), (250, 200)]  # 1/8 and 1/4; one decoding for both views


def test_loading_leaves_the_global_random_state_alone(source):
    torch.manual_seed(0)
    expected = torch.rand(3)
    for workers in (0, 1):
        torch.manual_seed(0)
        list(ImageLoader(source, SIZE, spec=ViewSpec(), workers=workers).batches([[(0, (0,))]]))
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_worker_is_told_where_a_batch_is_awaited(source, monkeypatch):
    before, read = signal.getsignal(signal.SIGCHLD), _Views.__getitem__

    def dying(self, item):
        if item[0] == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, item)

    monkeypatch.setattr(_Views, "__getitem__", dying)
    batches = ImageLoader(source, SIZE, workers=2).batches([[(row, ())] for row in range(12)])
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    for _ in range(50):  # a death is no exception elsewhere
        time.sleep(0.01)
    with pytest.raises(
        RuntimeError, match=r"decodes images was killed.*: run the same again, or with fewer --workers$"
    ):
        list(batches)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_worker_killed_while_others_start_is_told_in_the_same_words(source, monkeypatch):
    reset = _MultiProcessingDataLoaderIter._reset

    def later(*arguments, **options):
        time.sleep(0.5)
        reset(*arguments, **options)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_reset", later)
    monkeypatch.setattr("mecoq_faiss.data.loading._begin", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="decodes images was killed"):
        list(ImageLoader(source, SIZE, workers=2).batches([[(row, ())] for row in range(12)]))


def test_workers_are_chosen_by_the_number_of_images(source, monkeypatch):
    assert ImageLoader(source, SIZE).workers == 0  # a few images are not worth a process
    monkeypatch.setattr("mecoq_faiss.data.loading.FEW_IMAGES", 5)
    assert 1 <= ImageLoader(source, SIZE).workers <= 8
    assert ImageLoader(source, SIZE, workers=3).workers == 3


def test_pinning_keeps_the_content(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())  # the real one needs a GPU
    images, colors = np.ones((2, 1, 3, 4, 4), np.uint8), np.ones((2, 1, 7), np.float32)
    pinned = _Batch(images, colors, np.arange(2), ["", "no"]).pin_memory()
    assert isinstance(pinned.images, torch.Tensor) and isinstance(pinned.colors, torch.Tensor)
    np.testing.assert_array_equal(pinned.images, images)
    np.testing.assert_array_equal(pinned.colors, colors)
    assert pinned.rows.tolist() == [0, 1] and pinned.errors == ["", "no"]


INTERRUPTED = """
import itertools, sys, time
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.data.loading import ImageLoader

if __name__ == "__main__":
    loader = ImageLoader(open_source(sys.argv[1], "train"), 10, workers=2)
    try:
        for number, batch in enumerate(loader.batches([[(0, ())]] * 10**6)):
            if number == 4:  # in order: both workers are at work
                print("running", flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


def test_ctrl_c_stops_the_parent_and_no_worker_prints_a_traceback(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    for _ in range(50):  # and none stays behind
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a worker is still running")


KILLED = """
import sys, time
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.storage.files import locked
from mecoq_faiss.data.loading import ImageLoader
from mecoq_faiss.data.views import ViewSpec

if __name__ == "__main__":
    loader = ImageLoader(open_source(sys.argv[1], "train"), 64, spec=ViewSpec(), workers=2)
    with locked(sys.argv[2]):
        for number, batch in enumerate(loader.batches([[(0, tuple(range(40)))] * 3] * 10**6)):
            if number == 2:
                print("running", flush=True)
                time.sleep(600)  # the workers wait to hand over their next batches
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent_and_hold_no_lock(folder, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "running\n"
    time.sleep(0.5)
    process.send_signal(number)
    process.wait()
    for _ in range(50):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a worker is still running after five seconds")
    with locked(tmp_path / "lock", wait=False):
        pass


def test_an_interrupt_while_workers_start_is_not_lost(source, monkeypatch):
    class Starting:
        def __init__(self, *args, **kwargs):
            pass

        def __iter__(self):
            class Finalized:
                def __del__(self):  # Python prints an exception here, as in its hooks at a fork, and goes on
                    signal.raise_signal(signal.SIGINT)
                    int("1")  # handlers run between instructions

            Finalized()
            return iter(())

    monkeypatch.setattr("mecoq_faiss.data.loading.DataLoader", Starting)
    with pytest.raises(KeyboardInterrupt):
        list(ImageLoader(source, SIZE, workers=1).batches([[(0, ())]]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_loading_in_a_thread_gives_the_same(source):
    """Signals are the main thread's: elsewhere none is held."""
    handler = signal.getsignal(signal.SIGINT)

    def rows() -> list[torch.Tensor]:
        loader = ImageLoader(source, SIZE, spec=ViewSpec(), seed=6, workers=0)
        return [batch.images for batch in loader.batches(ORDER)]

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(rows).result()
    assert all(torch.equal(a, b) for a, b in zip(found, rows(), strict=True))
    assert signal.getsignal(signal.SIGINT) is handler
