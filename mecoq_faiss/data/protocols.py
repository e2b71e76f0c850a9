"""The benchmarks of the paper (MeCoQ, AAAI 2022) and scikit-learn's digits: images, labels and seeded splits.

The paper fixes how many images each split draws, not which ones; here seed 0 draws them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mecoq_faiss.data.cifar10_batches import read_cifar10_batches
from mecoq_faiss.data.stores import ArrayStore, FolderStore, ImageStore, TarStore, scan_folder
from mecoq_faiss.storage.files import read_small

PROTOCOL_SEED = 0
_MOST_TEXT = 1 << 28  # bytes, of a list of images or labels
SPLITS = ("train", "queries", "database")

# What ROOT must hold, by protocol; None where the protocol brings its own images.
PROTOCOLS: dict[str, str | None] = {
    "digits": None,
    "cifar10-i": "cifar-10-batches-py/, or train/CLASS/ and test/CLASS/ in a folder or tar",
    "cifar10-ii": "cifar-10-batches-py/, or train/CLASS/ and test/CLASS/ in a folder or tar",
    "flickr25k": "mirflickr/im1.jpg ... and mirflickr25k_annotations_v080/*.txt",
    "nuswide": "Flickr/CLASS/*.jpg, ImageList/Imagelist.txt and Groundtruth/AllLabels/Labels_*.txt",
}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All images of a benchmark, ``labels`` (n,) int64 or (n, L) uint8, and each split's rows, rising."""

    store: ImageStore
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: dict[str, np.ndarray]


def open_protocol(name: str, root: Path | None) -> Benchmark:
    """Open the protocol ``name`` of ``PROTOCOLS``.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` missing or not wanted, not laid out as it should be, or with too few images.
    """
    layout = PROTOCOLS[name]
    if layout is None:
        if root is not None:
            raise ValueError(f"{name} brings its own images; write {name} without :{root}")
        return digits()
    if root is None:
        raise ValueError(f"{name} needs its data: write {name}:ROOT, where ROOT holds {layout}")
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder; {name}:ROOT must hold {layout}")
    try:
        match name:
            case "cifar10-i":
                return cifar10(root, drawn=None)
            case "cifar10-ii":
                return cifar10(root)
            case "flickr25k":
                return flickr25k(root)
        return nuswide(root)
    except _WrongLayout as error:
        raise ValueError(f"{root}: {error}; {name}:ROOT must hold {layout}") from None


class _WrongLayout(ValueError):
    """Something is not where the protocol expects it."""


def digits(*, queries: int = 297) -> Benchmark:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey; the rest of the queries is train and database."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("digits needs scikit-learn: pip install 'mecoq-faiss[demo]'") from None
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16 to 0..255
    labels = bunch.target.astype(np.int64)
    names = tuple(f"digits/{i:04d}-{label}.png" for i, label in enumerate(labels))
    order = np.random.default_rng(PROTOCOL_SEED).permutation(len(names))
    chosen, rest = np.sort(order[:queries]), np.sort(order[queries:])
    splits = {"train": rest, "queries": chosen, "database": rest}
    return Benchmark(ArrayStore(names, pixels), labels, tuple("0123456789"), splits)


def cifar10(root: Path, *, drawn: int | None = 500, train_images: int = 5000, test_images: int = 1000) -> Benchmark:
    """CIFAR-10: the test images query the 50,000 training images.

    Args:
        root: torchvision's copy, or images in ``train/CLASS/`` and ``test/CLASS/`` of a folder or tar.
        drawn: training images a class, drawn from the 50,000 (protocol II); None takes all (protocol I).
        train_images: training images a class that must be there.
        test_images: test images a class that must be there.
    """
    store = _cifar10_images(root)
    parts = [("", "", "", *name.split("/"))[-3:-1] for name in store.names]
    side, folder = np.array(parts).T  # "train" or "test", class
    inside = np.isin(side, ("train", "test"))
    if not inside.all():
        raise _WrongLayout(f"{store.names[int(np.argmin(inside))]} lies in neither train/CLASS/ nor test/CLASS/")
    class_names, labels = np.unique(folder, return_inverse=True)
    rng = np.random.default_rng(PROTOCOL_SEED)
    train = []
    for label, class_name in enumerate(class_names):
        for part, wanted in (("train", train_images), ("test", test_images)):
            rows = np.flatnonzero((labels == label) & (side == part))
            if len(rows) != wanted:
                raise ValueError(
                    f"{root}: {len(rows)} images in {part}/{class_name}, expected {wanted}; get a whole copy"
                )
            if part == "train":
                train.append(rows if drawn is None else rng.choice(rows, drawn, replace=False))
    splits = {
        "train": np.sort(np.concatenate(train)),
        "queries": np.flatnonzero(side == "test"),
        "database": np.flatnonzero(side == "train"),
    }
    return Benchmark(store, labels.astype(np.int64), tuple(class_names.tolist()), splits)


def flickr25k(root: Path, *, queries: int = 2000, train: int = 5000, topics: int = 24) -> Benchmark:
    """MIRFLICKR-25000: random queries, ``train`` random images of the rest; all but the queries are the database.

    The labels are the topics of the annotation files, without those marked ``_r1`` (its stricter reading).
    """
    folder = root / "mirflickr" if (root / "mirflickr").is_dir() else root
    notes = ("mirflickr25k_annotations_v080", "annotations")
    found = [path / name for path in (root, folder) for name in notes if (path / name).is_dir()]
    files = sorted(found[0].glob("*.txt")) if found else []
    files = [file for file in files if not file.stem.endswith("_r1") and file.stem.lower() != "readme"]
    if len(files) != topics:
        raise _WrongLayout(f"{len(files)} annotation files without _r1, expected {topics}")
    names = sorted(file.name for file in folder.glob("im*.jpg") if re.fullmatch(r"im\d+\.jpg", file.name))
    if len(names) < queries + train + 1:
        raise _WrongLayout(f"{len(names)} images im*.jpg, fewer than {queries} queries, {train} to train and a rest")
    row_of = {int(name[2:-4]): row for row, name in enumerate(names)}
    labels = np.zeros((len(names), topics), np.uint8)
    for topic, file in enumerate(files):
        for number in _text(file).split():
            if not number.isdecimal() or int(number) not in row_of:
                raise ValueError(f"{file}: {number!r} is not the number of an image in {folder}; get a whole copy")
            labels[row_of[int(number)], topic] = 1
    order = np.random.default_rng(PROTOCOL_SEED).permutation(len(names))
    splits = {
        "train": np.sort(order[queries : queries + train]),
        "queries": np.sort(order[:queries]),
        "database": np.sort(order[queries:]),
    }
    return Benchmark(FolderStore(folder, tuple(names)), labels, tuple(file.stem for file in files), splits)


def nuswide(root: Path, *, queries: int = 100, concepts: int = 21) -> Benchmark:
    """NUS-WIDE: images of the most frequent concepts, ``queries`` of each; the rest is train and database."""
    image_list = root / "ImageList" / "Imagelist.txt"
    files = sorted((root / "Groundtruth" / "AllLabels").glob("Labels_*.txt"))
    folder = next((root / name for name in ("Flickr", "images") if (root / name).is_dir()), None)
    if folder is None or not image_list.is_file() or len(files) < concepts:
        raise _WrongLayout(f"no image folder, no image list, or fewer than {concepts} label files")
    listed = np.array([line.strip().replace("\\", "/") for line in _text(image_list).splitlines()], dtype=object)
    columns = [_zeros_and_ones(file, len(listed)) for file in files]
    frequent = sorted(sorted(range(len(files)), key=lambda j: -int(columns[j].sum()))[:concepts])
    labels = np.stack([columns[j] for j in frequent], axis=1)  # (n, concepts)
    rows = np.flatnonzero(labels.any(axis=1))
    rows = rows[np.argsort(listed[rows])]
    names, labels = tuple(listed[rows].tolist()), labels[rows]
    missing = sorted(set(names).difference(scan_folder(folder).names))
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(names)} images missing, first {missing[0]}; get a whole copy"
        )
    class_names = tuple(files[j].stem.removeprefix("Labels_") for j in frequent)
    rng = np.random.default_rng(PROTOCOL_SEED)
    free = np.ones(len(names), bool)
    for concept, class_name in enumerate(class_names):
        pool = np.flatnonzero(free & (labels[:, concept] == 1))
        if len(pool) < queries:
            raise ValueError(
                f"{root}: {len(pool)} images left of {class_name}, too few for {queries} queries; get a whole copy"
            )
        free[rng.choice(pool, queries, replace=False)] = False
    rest = np.flatnonzero(free)
    splits = {"train": rest, "queries": np.flatnonzero(~free), "database": rest}
    return Benchmark(FolderStore(folder, names), labels, class_names, splits)


def _zeros_and_ones(file: Path, n: int) -> np.ndarray:
    values = _text(file).split()
    if len(values) != n or not set(values) <= {"0", "1"}:
        raise ValueError(f"{file}: expected one 0 or 1 for each of {n} images, found {len(values)} values")
    return np.array([value == "1" for value in values], dtype=np.uint8)


def _text(file: Path) -> str:
    return read_small(file, _MOST_TEXT).decode(errors="replace")


def _cifar10_images(root: Path) -> ImageStore:
    if root.is_file():
        return TarStore(root)
    batches = root if root.name == "cifar-10-batches-py" else root / "cifar-10-batches-py"
    return read_cifar10_batches(batches) if batches.is_dir() else scan_folder(root)
