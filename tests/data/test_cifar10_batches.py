"""CIFAR-10's own pickles: read as Python 2 wrote them, and never run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.data import protocols
from mecoq_faiss.data.cifar10_batches import read_cifar10_batches
from mecoq_faiss.data.sources import SPLITS
from tests.python2_pickle import python2_pickle


def test_cifar10_python_batches(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(b"\x80\x02" + python2_pickle({"label_names": ["frog", "cat"]}) + b".")
    truth = {}
    for part in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = np.random.default_rng(len(truth)).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
        filenames = [f"{part}_{i}.png" for i in range(4)]
        for i, name in enumerate(filenames):
            place = "test" if part == "test_batch" else "train"
            truth[f"{place}/{['frog', 'cat'][i % 2]}/{name}"] = pixels[i].transpose(1, 2, 0)
        batch = {"data": pixels.reshape(4, 3072), "labels": [0, 1, 0, 1], "filenames": filenames}
        (folder / part).write_bytes(b"\x80\x02" + python2_pickle(batch) + b".")
    for root in (tmp_path, folder):
        benchmark = protocols.cifar10(root, drawn=3, train_images=10, test_images=2)
        assert benchmark.store.names == tuple(sorted(truth)) and benchmark.class_names == ("cat", "frog")
        for i, name in enumerate(benchmark.store.names):
            np.testing.assert_array_equal(np.asarray(benchmark.store.decode(i)), truth[name])
        assert [len(benchmark.splits[split]) for split in SPLITS] == [6, 4, 20]
    (folder / "test_batch").write_bytes(pickle.dumps({"data": os.system}))
    with pytest.raises(ValueError, match=r"test_batch: not a file of CIFAR-10 \(it wants to call .*system"):
        protocols.open_protocol("cifar10-i", tmp_path)
    for batch, words in (
        ({"data": 3, "labels": [], "filenames": []}, "data is no ndarray"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0], "filenames": ["a"]}, "cannot reshape"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [5], "filenames": ["a"]}, "list index out of range"),
    ):
        (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
        with pytest.raises(ValueError, match=f"test_batch: .*{words}.*; get a whole copy"):
            protocols.cifar10(folder)
    (folder / "test_batch").unlink()
    with pytest.raises(ValueError, match=r"test_batch: .*No such file .*; get a whole copy"):
        protocols.open_protocol("cifar10-i", tmp_path)


class Touch:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("part", ["batches.meta", "data_batch_1", "data_batch_5"])
def test_nothing_in_a_pickle_is_run(tmp_path, part):
    names = {"label_names": ["frog"]}
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [0], "filenames": ["a.png"]}
    for name in ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / name).write_bytes(pickle.dumps(names if name == "batches.meta" else batch))
    assert len(read_cifar10_batches(tmp_path).names) == 6
    pickle.loads(pickle.dumps(Touch(tmp_path / "run")))
    (tmp_path / "run").rmdir()  # it does what it says
    (tmp_path / part).write_bytes(pickle.dumps({**names, **batch, "more": Touch(tmp_path / "run")}))
    with pytest.raises(ValueError, match=rf"{part}: not a file of CIFAR-10 \(it wants to call posix\.mkdir\)"):
        read_cifar10_batches(tmp_path)
    assert not (tmp_path / "run").exists()


def test_images_of_all_parts_in_the_order_of_their_names(tmp_path):
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["frog", "cat"]}))
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.repeat(np.arange(3), 1024)[None].astype(np.uint8) + 10 * i  # red 0, green 1, blue 2
        batch = {"data": data.astype(np.uint8), "labels": [i % 2], "filenames": [f"{9 - i}.png"]}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    store = read_cifar10_batches(tmp_path)
    assert store.names == (
        "test/cat/4.png", "train/cat/6.png", "train/cat/8.png", "train/frog/5.png", "train/frog/7.png",
        "train/frog/9.png",
    )  # fmt: skip
    assert [store.pixels[row, 7, 9].tolist() for row in range(6)] == [
        [10 * i, 10 * i + 1, 10 * i + 2] for i in (5, 3, 1, 4, 2, 0)
    ]


ARRAY = b"cnumpy\nndarray\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02" + ARRAY + b"(\x8a\x06\0\0\0\0\0\x01ttR.",  # ndarray((2**40,))
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(" + ARRAY + b"(\x8a\x06\0\0\0\0\0\x01tU\x01btR.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a place in its memo of 2**31
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little"),  # bytes of a length that is not there
        b"\x80\x02" + b"(" * 100_000 + b".",
    ],
)
def test_a_pickle_allocates_nothing_that_it_does_not_hold(content, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(content)
    with pytest.raises(ValueError, match=r"batches\.meta: not a file of CIFAR-10") as error:
        read_cifar10_batches(folder)
    assert "\n" not in str(error.value)


def test_a_pipe_is_no_batch(tmp_path):
    os.mkfifo(tmp_path / "batches.meta")
    with pytest.raises(ValueError, match=r"batches\.meta: not a file of CIFAR-10 .*Not a regular file"):
        read_cifar10_batches(tmp_path)
