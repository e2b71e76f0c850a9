"""Sources: what is decoded, found, labelled, split and refused."""

from __future__ import annotations

import gc
import io
import os
import pickle
import re
import struct
import tarfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss.data import protocols, stores
from mecoq_faiss.data.sources import SPLITS, FeatureSource, ImageSource, UnreadableImage, decode_image, open_source

CIFAR10 = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10-jpeg.tar.xz"


def noise(height: int = 12, width: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, **options) -> np.ndarray:
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(4, 5, seed=seed)).save(path)


# Decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_types_give_the_pixels_back(kind):
    pixels = noise()
    data = encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(data), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_types_come_close(kind):
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 90)), kind, quality=95)
    assert abs(decoded(data) - (200, 40, 90)).max() <= 6


def test_every_way_to_hand_over_a_file_is_equal(tmp_path):
    path = tmp_path / "a.png"
    write_image(path)
    expected = decoded(path.read_bytes())
    with open(path, "rb") as file:
        for given in (path, str(path), file, io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(np.asarray(decode_image(given)), expected)


def test_grey_and_one_bit_become_equal_channels():
    grey = noise(channels=1)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, 2))
    bits = grey > 127
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits), "PNG")), np.stack([bits * 255] * 3, 2))


def test_palette():
    image = Image.fromarray((noise(channels=1) % 3).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 250, 7])
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 250, 7]])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(image, kind)), colours[np.asarray(image)])
    clear = np.array([[10, 20, 30], [255, 255, 255], [0, 250, 7]])
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(decoded(encoded(image, kind, transparency=1)), clear[np.asarray(image)])
    # Half of 10, 20, 30 on white
    half = decoded(encoded(image, "PNG", transparency=bytes([128, 255, 255])))
    assert abs(half[np.asarray(image) == 0] - (132, 137, 142)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_on_white(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    rgba = noise(channels=4)
    rgba[0] = (9, 9, 9, 0)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decoded(encoded(Image.fromarray(rgba), kind, **options)) - expected).max() <= 1


def test_grey_with_alpha_and_transparent_colour():
    two = noise(channels=2)
    alpha = two[..., 1] / 255
    expected = two[..., 0] * alpha + 255 * (1 - alpha)
    assert abs(decoded(encoded(Image.fromarray(two, "LA"), "PNG"))[..., 1] - expected).max() <= 1
    rgb = noise()
    rgb[3] = (1, 2, 3)
    seen = decoded(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))
    assert (seen[3] == 255).all()
    np.testing.assert_array_equal(seen[4:], rgb[4:])


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    for kind in ("JPEG", "TIFF"):
        assert abs(decoded(encoded(image, kind)) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = np.stack([np.arange(256).reshape(16, 16)] * 3, 2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey), kind)), expected)
    near = decoded(encoded(Image.fromarray(np.array([[0, 128, 129, 65406, 65535]], np.uint16)), kind))
    assert near[0, :, 0].tolist() == [0, 0, 1, 254, 255]


def test_big_endian_and_32_bit_grey():
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    big = b"MM\0*" + struct.pack(">I", 8 + 512) + grey.astype(">u2").tobytes()
    tags = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 512)]
    big += struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    np.testing.assert_array_equal(decoded(big + bytes(4))[..., 0], grey // 257)
    wide = encoded(Image.fromarray(grey.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(decoded(wide)[..., 0], grey // 257)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(decoded(data) - (255, 0, 0)).max() <= 3


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[:8, 16:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), kind, exif=exif, **({} if kind in ("PNG", "TIFF") else {"quality": 100}))
    seen, expected = decoded(data), UPRIGHT[orientation](pixels).astype(int)
    assert seen.shape == expected.shape
    assert abs(seen - expected)[3::8, 3::8].max() <= 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_image():
    data = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert abs(decoded(data) - (255, 0, 0)).max() <= 3


def test_a_damaged_tag_beside_the_orientation_does_not_lose_the_image():
    exif = Image.Exif()
    exif[0x0112], exif[0x8825] = 6, {2: (1.0, 2.0, 3.0)}  # the latitude, fractions
    damaged = exif.tobytes().replace(b"\0\2\0\5\0\0\0\3", b"\0\2\0\1\0\0\0\3")  # which now says bytes
    assert damaged != exif.tobytes()
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 250
    data = encoded(Image.fromarray(pixels), "JPEG", exif=damaged, quality=100)
    assert abs(decoded(data) - np.rot90(pixels, -1).astype(int)).max() <= 8


def test_draft_never_goes_below():
    data = encoded(Image.fromarray(noise(1200, 1600)), "JPEG")
    assert decoded(data, draft=224).shape == (300, 400, 3)
    assert decoded(data, draft=301).shape == (600, 800, 3)
    assert decoded(data, draft=5000).shape == (1200, 1600, 3)
    assert decoded(encoded(Image.fromarray(noise(120, 160)), "PNG"), draft=20).shape == (120, 160, 3)
    grey = decoded(encoded(Image.fromarray(noise(800, 800, 1)), "JPEG"), draft=100)
    assert grey.shape == (100, 100, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_is_refused(kind, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match=re.escape(str(path))):
        decode_image(path)


def test_other_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UnreadableImage, match=r"a\.jpg: not an image of a known type \(\.bmp"):
        decode_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match=r"b\.jpg: No such file"):
        decode_image(tmp_path / "b.jpg")
    with pytest.raises(UnreadableImage, match="from the web: not an image"):
        decode_image(b"", name="from the web")
    with pytest.raises(UnreadableImage, match="not an image"):  # EPS would start Ghostscript
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))
    with pytest.raises(UnreadableImage, match="float pixels"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))
    data = encoded(Image.new("RGB", (64, 64)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode_image(data)


# Folders and tars


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for seed, name in enumerate(["dog/b.png", "dog/a.PNG", "cat/deep/c.png", "bird/x y é.png"]):
        write_image(root / name, seed)
    for hidden in (".cache/a.png", "dog/.b.png", "cat/._c.png"):
        write_image(root / hidden)
    (root / "dog" / "notes.txt").write_text("no image")
    return root


PATHS = ("bird/x y é.png", "cat/deep/c.png", "dog/a.PNG", "dog/b.png")


def pack(folder: Path, ending: str) -> Path:
    path = folder.with_name(f"photos{ending}")
    mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}[ending]
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=".")
    return path


def test_folder(folder):
    source = open_source(folder, "train")
    assert isinstance(source, ImageSource) and source.kind == "images"
    assert source.paths == PATHS and len(source) == 4
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 1, 2, 2]
    assert source.class_names == ("bird", "cat", "dog") and source.protocol is None
    np.testing.assert_array_equal(np.asarray(source.open(3)), noise(4, 5, seed=0))
    assert open_source(str(folder), "queries").paths == source.paths


def test_no_labels_when_an_image_lies_at_the_root(folder):
    write_image(folder / "z.png")
    source = open_source(folder, "train")
    assert source.paths[-1] == "z.png" and source.labels is None and source.class_names == ()
    assert source.subset([0, 4]).labels is None


def test_linked_folders_are_followed_once(folder):
    (folder / "cat" / "loop").symlink_to(folder)
    elsewhere = folder.with_name("elsewhere")
    write_image(elsewhere / "e.png")
    (folder / "fish").symlink_to(elsewhere)
    assert open_source(folder, "train").paths == (*PATHS, "fish/e.png")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_tar_equals_folder(folder, ending):
    from_folder, from_tar = open_source(folder, "train"), open_source(pack(folder, ending), "train")
    assert from_tar.paths == from_folder.paths and from_tar.class_names == from_folder.class_names
    np.testing.assert_array_equal(from_tar.labels, from_folder.labels)
    again = pickle.loads(pickle.dumps(from_tar))
    for i in range(4):
        np.testing.assert_array_equal(np.asarray(from_tar.open(i)), np.asarray(from_folder.open(i)))
        np.testing.assert_array_equal(np.asarray(again.open(i)), np.asarray(from_folder.open(i)))


def test_unpacked_copy_is_removed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    source = open_source(pack(folder, ".tar.xz"), "train")
    source.open(0)
    part = source.subset([1])
    del source
    gc.collect()
    assert len(os.listdir(tmp_path / "tmp")) == 1 and part.open(0).size == (5, 4)
    del part
    gc.collect()
    assert os.listdir(tmp_path / "tmp") == []
    broken = pack(folder, ".tar.gz")
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable tar"):
        open_source(broken, "train")
    gc.collect()
    assert os.listdir(tmp_path / "tmp") == []


def test_a_later_entry_of_a_tar_replaces_the_earlier(folder):
    path = pack(folder, ".tar")
    write_image(folder / "dog" / "b.png", seed=9)
    with tarfile.open(path, "a") as tar:
        tar.add(folder / "dog" / "b.png", arcname="dog/b.png")
    source = open_source(path, "train")
    assert source.paths == PATHS
    np.testing.assert_array_equal(np.asarray(source.open(3)), noise(4, 5, seed=9))


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.xz"])
def test_workers_and_this_process_read_the_same(folder, ending):
    data = pytest.importorskip("torch.utils.data")
    source = open_source(pack(folder, ending) if ending else folder, "train")

    def total(i):
        return int(np.asarray(source.open(i)).sum())

    expected = [total(i) for i in range(4)]  # opens the tar before the fork

    class Sums(data.Dataset):
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            return total(i)

    loader = data.DataLoader(Sums(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert [int(value) for value in loader] == expected
    assert [total(i) for i in range(4)] == expected


def test_subset_keeps_the_order_given(folder):
    source = open_source(folder, "train").subset(np.array([3, 0]))
    assert source.paths == (PATHS[3], PATHS[0]) and source.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(np.asarray(source.open(1)), noise(4, 5, seed=3))
    assert source.subset([1]).paths == (PATHS[0],) and len(source.subset([])) == 0
    assert source.subset(np.array([False, True])).paths == source.subset([-1]).paths == (PATHS[0],)


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz"])
def test_fingerprint(folder, ending):
    def opened():
        return open_source(pack(folder, ending) if ending else folder, "train")

    path = pack(folder, ending) if ending else folder
    first = open_source(path, "train")
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint)
    assert first.fingerprint == open_source(path, "queries").fingerprint == first.subset(range(4)).fingerprint
    assert len({first.fingerprint, first.subset([0]).fingerprint, first.subset([1, 0]).fingerprint}) == 3
    before = first.fingerprint
    os.utime(folder / "cat" / "deep" / "c.png", (1, 1))
    assert opened().fingerprint != before
    before = opened().fingerprint
    (folder / "dog" / "b.png").rename(folder / "dog" / "c.png")
    assert opened().fingerprint != before


def test_damaged_images_are_named(folder):
    (folder / "dog" / "b.png").write_bytes((folder / "dog" / "b.png").read_bytes()[:40])
    for path in (folder, pack(folder, ".tar")):
        source = open_source(path, "train")
        source.open(0)
        with pytest.raises(UnreadableImage, match=r"photos.*dog/b\.png: "):
            source.open(3)
    os.remove(path)
    with pytest.raises(UnreadableImage, match=r"photos\.tar:bird/x y é\.png: No such file"):
        open_source_after_removal = pickle.loads(pickle.dumps(source))
        open_source_after_removal.open(0)


# Features


def write_h5(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key, data=value)
    return path


@pytest.fixture(params=["contiguous", "chunked", "big-endian", "npy", "fortran npy", "user block"])
def features(request, tmp_path):
    """(path, the truth) with 40 rows of 3 views of 4 features."""
    truth = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
    path = tmp_path / ("f.npy" if "npy" in request.param else "f.h5")
    if "npy" in request.param:
        np.save(path, np.asfortranarray(truth) if "fortran" in request.param else truth)
        return path, truth
    with h5py.File(path, "w", userblock_size=512 if request.param == "user block" else 0) as file:
        options = {"chunks": (7, 3, 4), "compression": "gzip"} if request.param == "chunked" else {}
        dtype = ">f4" if request.param == "big-endian" else "f4"
        file.create_dataset("features", data=truth, dtype=dtype, **options)
    return path, truth


def test_features_are_read_by_rows(features):
    path, truth = features
    source = open_source(path, "train")
    assert isinstance(source, FeatureSource) and source.kind == "features" and len(source) == 40
    assert source.features.shape == (40, 3, 4) and source.features.ndim == 3 and source.features.dtype == np.float32
    assert source.paths[:2] == ("0", "1") and source.labels is None and source.class_names == ()
    picks = [3, -1, slice(5, 20), slice(None, None, -2), slice(4, 4), [7, 2, 2, 39], np.array([0, 39]), np.arange(9)]
    part, rows = source.subset([9, 4, 4, 30]), np.array([9, 4, 4, 30])
    for reader in (source, pickle.loads(pickle.dumps(source))):
        for pick in picks:
            block = reader.features[pick]
            assert block.dtype == np.float32 and block.dtype.isnative
            np.testing.assert_array_equal(block, truth[pick])
    np.testing.assert_array_equal(np.asarray(source.features), truth)
    np.testing.assert_array_equal(part.features[1:], truth[rows][1:])
    np.testing.assert_array_equal(part.subset([3, 0]).features[:], truth[[30, 9]])
    assert part.paths == ("9", "4", "4", "30")
    np.testing.assert_array_equal(part.subset(np.array([True, False, False, True])).features[:], truth[[9, 30]])
    assert len({source.fingerprint, part.fingerprint, source.subset([9]).fingerprint}) == 3
    assert source.fingerprint == open_source(path, "train").fingerprint
    source.check_finite()
    before = source.fingerprint
    os.utime(path, (1, 1))
    assert open_source(path, "train").fingerprint != before


def test_what_maps_is_not_read(tmp_path):
    truth = np.ones((5, 2), np.float32)
    np.save(tmp_path / "f.npy", truth)
    for path in (tmp_path / "f.npy", write_h5(tmp_path / "f.h5", embeddings=truth)):
        source = open_source(path, "train")
        assert isinstance(source.features[1:4], np.memmap) or isinstance(source.features[1:4].base, np.memmap)
        assert len(pickle.dumps(open_source(path, "train").features)) < 2000


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_float_widths(tmp_path, dtype):
    np.save(tmp_path / "f.npy", np.ones((2, 3), dtype))
    assert open_source(tmp_path / "f.npy", "train").features.dtype == np.dtype(dtype)


def test_feature_labels_and_paths(tmp_path):
    x = np.ones((3, 2), np.float32)
    source = open_source(write_h5(tmp_path / "a.h5", features=x, paths=["a", "b", "ü"], labels=[2, 0, 2]), "train")
    assert source.paths == ("a", "b", "ü") and source.labels.tolist() == [2, 0, 2]
    assert source.labels.dtype == np.int64 and source.class_names == ("0", "1", "2")
    assert source.subset([2, 1]).paths == ("ü", "b") and source.subset([2, 1]).labels.tolist() == [2, 0]
    named = open_source(write_h5(tmp_path / "b.h5", features=x, labels=[1, 0, 1], class_names=["cat", "dog"]), "train")
    assert named.class_names == ("cat", "dog")
    words = open_source(write_h5(tmp_path / "c.h5", features=x, labels=["dog", "cat", "dog"]), "train")
    assert words.class_names == ("cat", "dog") and words.labels.tolist() == [1, 0, 1]
    several = open_source(write_h5(tmp_path / "d.h5", features=x, labels=[[0, 1], [1, 1], [0, 0]]), "train")
    assert several.labels.dtype == np.uint8 and several.labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert several.class_names == ("0", "1")


def test_check_finite_names_the_first_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr("mecoq_faiss.data.features._BLOCK_BYTES", 64)
    x = np.zeros((20, 4), np.float32)
    x[13, 2], x[17, 0] = np.inf, np.nan
    source = open_source(write_h5(tmp_path / "f.h5", features=x, paths=[f"{i}.jpg" for i in range(20)]), "train")
    with pytest.raises(ValueError, match=r"row 13 \(13\.jpg\) has NaN or infinity"):
        source.check_finite()
    source.subset(range(13)).check_finite()
    with pytest.raises(ValueError, match=r"row 1 \(17\.jpg\)"):
        source.subset([3, 17]).check_finite()


# Protocols


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


def test_a_protocol_goes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "digits" / "a.png")
    assert len(open_source("digits", "train")) == 1500
    assert len(open_source("./digits", "train")) == len(open_source(Path("digits"), "train")) == 1


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


def python2_pickle(value) -> bytes:
    """The opcodes by which Python 2 wrote CIFAR-10's batches: byte strings and numpy's old module names."""
    if isinstance(value, dict):
        return b"}" + b"".join(python2_pickle(k) + python2_pickle(v) + b"s" for k, v in value.items())
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
    shape = b"(" + b"".join(map(python2_pickle, value.shape)) + b"t"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = python2_pickle(value.tobytes().decode("latin1"))
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


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


# Errors at the door


def refused(src, error=ValueError, split="train") -> str:
    with pytest.raises(error) as caught:
        open_source(src, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_sources():
    message = refused("cifar10-iii", FileNotFoundError)
    assert "no file or folder" in message and message.endswith("did you mean cifar10-ii, cifar10-i?")
    assert "choose one of cifar10-i, cifar10-ii, digits, flickr25k, nuswide" in refused("xyz", FileNotFoundError)
    assert "did you mean nuswide?" in refused("NUS-WIDE:/x#train", FileNotFoundError)
    assert "did you mean" not in refused("/no/such/place", FileNotFoundError)


def test_splits(tmp_path, folder):
    assert "'test'" in refused("digits#test") and "train, queries, database" in refused("digits#test")
    assert "train, queries, database" in refused(folder, split="test")
    assert "only built-in protocols have splits" in refused(f"{folder}#train")
    hashed = tmp_path / "a#train"
    write_image(hashed / "a.png")
    assert len(open_source(str(hashed), "queries")) == 1


def test_protocol_roots(tmp_path):
    assert "needs its data: write cifar10-i:ROOT, where ROOT holds cifar-10-batches-py" in refused("cifar10-i")
    assert "brings its own images; write digits" in refused("digits:/x")
    assert "must hold Flickr/" in refused(f"nuswide:{tmp_path}/none", FileNotFoundError)
    write_image(tmp_path / "cat" / "a.png")
    message = refused(f"cifar10-ii:{tmp_path}")
    assert "cat/a.png lies in neither train/CLASS/ nor test/CLASS/; cifar10-ii:ROOT must hold" in message
    assert "flickr25k:ROOT must hold" in refused(f"flickr25k:{tmp_path}/cat/a.png")


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert "pip install 'mecoq-faiss[demo]'" in refused("digits")


def test_folders_and_files_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "the folder is empty; accepted types: .bmp, .gif" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "a.heic").touch()
    assert "none of its 1 files is an image; accepted types: .bmp, .gif" in refused(tmp_path / "empty")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.add(tmp_path / "empty", arcname="x")
    assert "no images in this tar; accepted types" in refused(tmp_path / "none.tar")
    for name in ("text.tar", "text.tar.gz", "text.tar.xz"):
        (tmp_path / name).write_text("hello" * 400)
        assert "not a readable tar" in refused(tmp_path / name)
    write_image(tmp_path / "one.png")
    assert "give the folder" in refused(tmp_path / "one.png")
    (tmp_path / "a.zip").touch()
    assert "unknown file type; give a folder of images or one of .tar, " in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz"])
def test_truncated_tar(folder, ending):
    whole = (path := pack(folder, ending)).read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    # Cut in the data, in a header, between two members; or at half where compressed
    cuts = [members[-1].offset_data + 5, members[-1].offset + 5, members[-1].offset]
    for cut in cuts if ending == ".tar" else [len(whole) // 2]:
        assert "not a readable tar" in refused(make(path, whole[:cut]))


def test_damaged_tar(folder):
    path = pack(folder, ".tar")
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[-1].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"?" * 20
    assert f"damaged or cut off at byte {offset}" in refused(make(path, bytes(data)))


def test_no_room_to_unpack(folder, monkeypatch):
    def full(source, target, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.shutil, "copyfileobj", full)
    assert "No space left on device" in refused(pack(folder, ".tar.gz"), OSError)
    assert "set TMPDIR" in refused(pack(folder, ".tar.gz"), OSError)


def test_feature_files_are_checked(tmp_path):
    x = np.ones((3, 2), np.float32)
    path = tmp_path / "f.h5"
    assert "save its array alone with np.save" in refused(make(tmp_path / "f.npz", b"PK"))
    assert "no dataset 'features' or 'embeddings', only ['other']" in refused(write_h5(path, other=x))
    for bad, words in (
        (np.ones(3, np.float32), "shape (3,)"),
        (np.ones((2, 2, 2, 2), np.float32), "expected (n, F), or (n, V, F)"),
        (np.ones((3, 2), np.uint8), "features are uint8; convert them to float32"),
        (np.ones((0, 2), np.float32), "features are empty, shape (0, 2)"),
        (np.ones((2, 0), np.float32), "features are empty, shape (2, 0)"),
    ):
        assert words in refused(write_h5(path, features=bad))
        np.save(tmp_path / "f.npy", bad)
        assert words in refused(tmp_path / "f.npy")
    for labels, words in (
        ([0, 1], "labels have shape (2,) for 3 features"),
        (3, "labels have shape () for 3 features"),
        ([0, -1, 1], "integers from 0"),
        ([0.5, 1, 1], "integers from 0"),
        ([[0, 2], [0, 0], [0, 0]], "must be 0 or 1"),
    ):
        assert words in refused(write_h5(path, features=x, labels=labels))
    assert "1 class_names for 2" in refused(write_h5(path, features=x, labels=[0, 1, 1], class_names=["a"]))
    assert "2 paths for 3 features" in refused(write_h5(path, features=x, paths=["a", "b"]))
    assert "must be a list of strings" in refused(write_h5(path, features=x, paths=[1, 2, 3]))


def make(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_damaged_feature_files(tmp_path):
    whole = write_h5(tmp_path / "f.h5", features=np.ones((100, 20), np.float32)).read_bytes()
    assert "not a readable HDF5 file" in refused(make(tmp_path / "cut.h5", whole[:5000]))
    assert "not a readable HDF5 file" in refused(make(tmp_path / "text.hdf5", b"hello"))
    np.save(tmp_path / "f.npy", np.ones((100, 20), np.float32))
    whole = (tmp_path / "f.npy").read_bytes()
    assert "truncated, 4,872 of 8,000 bytes" in refused(make(tmp_path / "cut.npy", whole[:5000]))
    for data in (b"", b"hello", whole[:50]):
        assert "not a readable .npy file" in refused(make(tmp_path / "bad.npy", data))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    assert "convert them to float32" in refused(tmp_path / "objects.npy")
