"""The benchmarks' splits and labels, on miniatures of their folders."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.data import protocols
from mecoq_faiss.data.sources import SPLITS, open_source
from tests.data.files import pack, refused, write_image

CIFAR10 = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10-jpeg.tar.xz"


def test_digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    opened = {split: open_source("digits", split) for split in SPLITS}
    assert {split: len(source) for split, source in opened.items()} == {"train": 1500, "queries": 297, "database": 1500}
    queries, train = opened["queries"], opened["train"]
    assert train.paths == opened["database"].paths == tuple(sorted(train.paths))
    assert set(queries.paths).isdisjoint(train.paths)
    expected = sorted(np.random.default_rng(0).permutation(1797)[:297].tolist())
    assert [int(path[7:11]) for path in queries.paths] == expected
    for i in (0, 100, 296):
        assert queries.paths[i] == f"digits/{expected[i]:04d}-{bunch.target[expected[i]]}.png"
        assert queries.labels[i] == bunch.target[expected[i]]
        pixels = np.asarray(queries.open(i))
        assert pixels.shape == (8, 8, 3)
        assert abs(pixels[..., 1] - bunch.images[expected[i]] * 255 / 16).max() <= 0.5
    assert queries.class_names == tuple("0123456789")
    assert queries.protocol == {"name": "digits", "split": "queries", "seed": 0}
    assert queries.fingerprint == open_source("digits#queries", "train").fingerprint != train.fingerprint
    assert pickle.loads(pickle.dumps(queries)).open(3).tobytes() == queries.open(3).tobytes()


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert "pip install 'mecoq-faiss[demo]'" in refused("digits")


def make_cifar(root: Path, train: int = 6, test: int = 2) -> Path:
    for name in ("frog", "cat", "ship"):
        for part, count in (("train", train), ("test", test)):
            for i in range(count):
                write_image(root / part / name / f"{i}.png", seed=i)
    return root


def test_cifar10_miniature(tmp_path):
    root = make_cifar(tmp_path / "photos")
    everything = protocols.cifar10(root, drawn=None, train_images=6, test_images=2)
    drawn = protocols.cifar10(root, drawn=4, train_images=6, test_images=2)
    names = everything.store.names
    assert everything.class_names == ("cat", "frog", "ship")
    assert [len(everything.splits[split]) for split in SPLITS] == [18, 6, 18]
    assert [len(drawn.splits[split]) for split in SPLITS] == [12, 6, 18]
    assert all(names[row].startswith("test/") for row in drawn.splits["queries"])
    assert Counter(names[row].rpartition("/")[0] for row in drawn.splits["train"]) == {
        "train/cat": 4,
        "train/frog": 4,
        "train/ship": 4,
    }
    assert all(names[row].split("/")[1] == everything.class_names[everything.labels[row]] for row in range(24))
    tar = protocols.cifar10(pack(root, ".tar.gz"), drawn=4, train_images=6, test_images=2)
    assert tar.store.names == names and tar.splits["train"].tolist() == drawn.splits["train"].tolist()
    with pytest.raises(ValueError, match=r"6 images in train/cat, expected 5000; get a whole copy"):
        protocols.open_protocol("cifar10-ii", root)


@pytest.mark.skipif(not CIFAR10.exists(), reason="the real CIFAR-10 is not beside this checkout (../shared/data)")
def test_cifar10_real():
    benchmark = protocols.open_protocol("cifar10-ii", CIFAR10)
    names, splits = benchmark.store.names, benchmark.splits
    for split, each in (("train", 500), ("queries", 1000), ("database", 5000)):
        assert list(Counter(benchmark.labels[splits[split]].tolist()).values()) == [each] * 10
    train, queries, database = ({names[row] for row in splits[split]} for split in SPLITS)
    assert train < database and queries.isdisjoint(database)
    assert benchmark.store.decode(0).size == (32, 32)
    source = open_source(f"cifar10-i:{CIFAR10}#train", "queries")
    assert source.paths == tuple(sorted(database)) and source.class_names[0] == "airplane"
    assert source.protocol == {"name": "cifar10-i", "split": "train", "seed": 0}


@pytest.mark.parametrize("notes", ["mirflickr25k_annotations_v080", "annotations"])
@pytest.mark.parametrize("place", ["mirflickr", "."])
def test_flickr25k_miniature(tmp_path, place, notes):
    for i in range(1, 13):
        write_image(tmp_path / place / f"im{i}.jpg")
    (tmp_path / place / "other.jpg").touch()
    (tmp_path / notes).mkdir()
    topics = {"baby": [1, 12], "sky": [2, 1, 10], "car": []}
    for topic, numbers in topics.items():
        (tmp_path / notes / f"{topic}.txt").write_text("".join(f"{number}\r\n" for number in numbers))
    (tmp_path / notes / "baby_r1.txt").write_text("3\n")
    (tmp_path / notes / "README.txt").write_text("no numbers")
    benchmark = protocols.flickr25k(tmp_path, queries=3, train=4, topics=3)
    names = benchmark.store.names
    assert names == tuple(sorted(f"im{i}.jpg" for i in range(1, 13))) and benchmark.class_names == (
        "baby",
        "car",
        "sky",
    )
    assert benchmark.labels.dtype == np.uint8
    for row, name in enumerate(names):
        assert benchmark.labels[row].tolist() == [int(name[2:-4]) in map(int, topics[t]) for t in benchmark.class_names]
    train, queries, database = (set(benchmark.splits[split].tolist()) for split in SPLITS)
    assert (len(train), len(queries), len(database)) == (4, 3, 9)
    assert train < database and queries.isdisjoint(database)
    benchmark.store.decode(0)
    with pytest.raises(
        ValueError, match=r"3 annotation files without _r1, expected 24; flickr25k:ROOT must hold mirfl"
    ):
        open_source(f"flickr25k:{tmp_path}", "train")
    with pytest.raises(ValueError, match="12 images"):
        protocols.flickr25k(tmp_path, queries=8, train=4, topics=3)
    (tmp_path / notes / "car.txt").write_text("13\n")
    with pytest.raises(ValueError, match=r"car\.txt: '13' is not the number of an image"):
        protocols.flickr25k(tmp_path, queries=3, train=4, topics=3)


@pytest.mark.parametrize("place", ["Flickr", "images"])
def test_nuswide_miniature(tmp_path, place):
    rng = np.random.default_rng(0)
    listed = [f"{folder}/{i:04d}_{i * 7}.jpg" for i, folder in zip(range(40), ["zoo", "actor"] * 20, strict=True)]
    concepts = {"sky": rng.random(40) < 0.5, "dog": rng.random(40) < 0.6, "map": np.arange(40) < 2}
    for name, values in concepts.items():
        file = tmp_path / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{int(value)}\n" for value in values))
    (tmp_path / "ImageList").mkdir()
    (tmp_path / "ImageList" / "Imagelist.txt").write_text("".join(p.replace("/", "\\") + "\r\n" for p in listed))
    kept = {path for i, path in enumerate(listed) if concepts["sky"][i] or concepts["dog"][i]}
    for path in kept:  # images of other concepts need not be there
        write_image(tmp_path / place / path)
    benchmark = protocols.nuswide(tmp_path, queries=4, concepts=2)
    names = benchmark.store.names
    assert names == tuple(sorted(kept)) and benchmark.class_names == ("dog", "sky")
    for row, name in enumerate(names):
        i = listed.index(name)
        assert benchmark.labels[row].tolist() == [concepts["dog"][i], concepts["sky"][i]]
    queries, rest = benchmark.splits["queries"], benchmark.splits["database"]
    assert len(queries) == 8 and sorted([*queries, *rest]) == list(range(len(names)))
    assert (benchmark.labels[queries].sum(axis=0) >= 4).all()
    np.testing.assert_array_equal(benchmark.splits["train"], rest)
    benchmark.store.decode(0)
    with pytest.raises(ValueError, match=r"fewer than 21 label files; nuswide:ROOT must hold Flickr"):
        open_source(f"nuswide:{tmp_path}", "train")
    with pytest.raises(ValueError, match=r"images left of dog, too few for 30 queries"):
        protocols.nuswide(tmp_path, queries=30, concepts=2)
    (tmp_path / place / names[0]).unlink()
    with pytest.raises(ValueError, match=f"1 of {len(names)} images missing, first {names[0]}"):
        protocols.nuswide(tmp_path, queries=4, concepts=2)
    (tmp_path / "Groundtruth" / "AllLabels" / "Labels_sky.txt").write_text("0\n1\n")
    with pytest.raises(ValueError, match=r"Labels_sky\.txt: expected one 0 or 1 for each of 40 images, found 2"):
        protocols.nuswide(tmp_path, queries=4, concepts=2)


def test_protocol_roots(tmp_path):
    assert "needs its data: write cifar10-i:ROOT, where ROOT holds cifar-10-batches-py" in refused("cifar10-i")
    assert "brings its own images; write digits" in refused("digits:/x")
    assert "must hold Flickr/" in refused(f"nuswide:{tmp_path}/none", FileNotFoundError)
    write_image(tmp_path / "cat" / "a.png")
    message = refused(f"cifar10-ii:{tmp_path}")
    assert "cat/a.png lies in neither train/CLASS/ nor test/CLASS/; cifar10-ii:ROOT must hold" in message
    assert "flickr25k:ROOT must hold" in refused(f"flickr25k:{tmp_path}/cat/a.png")


def test_splits_rise_and_are_drawn_alike_each_time(tmp_path):
    root = make_cifar(tmp_path / "photos")

    def drawn() -> dict[str, list[int]]:
        benchmark = protocols.cifar10(root, drawn=4, train_images=6, test_images=2)
        return {split: rows.tolist() for split, rows in benchmark.splits.items()}

    splits = drawn()
    assert splits == drawn() and tuple(splits) == SPLITS
    for rows in splits.values():
        assert rows == sorted(set(rows))
    assert protocols.open_protocol("digits", None).splits["queries"].tolist() == sorted(
        np.random.default_rng(protocols.PROTOCOL_SEED).permutation(1797)[:297].tolist()
    )
