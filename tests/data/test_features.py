"""Files of features: paths, labels and class names, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mecoq_faiss.data.features import open_features
from mecoq_faiss.data.sources import open_source
from tests.data.files import make, refused, write_h5


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


def test_vectors_are_a_float32_copy_of_the_first_view(tmp_path):
    views = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float16)
    np.save(tmp_path / "views.npy", views)
    np.save(tmp_path / "flat.npy", views[:, 1])
    of_views, flat = (open_features(tmp_path / name, name) for name in ("views.npy", "flat.npy"))
    for source, truth in ((of_views, views[:, 0]), (flat, views[:, 1])):
        for rows in (slice(1, 4), np.array([5, 0, 0])):
            x = source.vectors(rows)
            assert x.dtype == np.float32 and x.flags.writeable
            np.testing.assert_array_equal(x, truth[rows].astype(np.float32))


def test_the_name_is_what_the_user_typed(tmp_path):
    np.save(tmp_path / "f.NPY", np.ones((2, 3)))
    with open(tmp_path / "f.npy", "wb") as file:
        np.save(file, np.ones((2, 3)))
    (tmp_path / "f.npy").rename(tmp_path / "F.NPY")
    source = open_features(tmp_path / "F.NPY", "~/F.NPY")
    assert source.name == "~/F.NPY" and len(source) == 2 and source.paths == ("0", "1")
    with pytest.raises(ValueError, match=r"^~/G\.h5: not a readable HDF5 file"):
        open_features(tmp_path / "F.NPY.h5", "~/G.h5")


def npy(header: str, version: bytes = b"\1\0", length: int | None = None, data: bytes = bytes(64)) -> bytes:
    text = header.encode() + b"\n"
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + (len(text) if length is None else length).to_bytes(width, "little") + text + data


def described(shape: str, descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(described("(-1, 4)")), "shape (-1, 4)"),
        (npy(described("(-2, -2)")), "shape (-2, -2)"),
        (npy(described("(True, 4)")), "shape (True, 4)"),
        (npy(described("(4611686018427387904, 4)")), "rows are more than 268,435,456"),
        (npy(described("(1152921504606846976, 16)")), "rows are more than 268,435,456"),
        (npy(described("(2, 9223372036854775808)")), "truncated, 64 of 73,786,976,294,838,206,464 bytes"),
        (npy(described("(4, 4611686018427387904, 4)")), "truncated, 64 of"),
        (npy(described("()")), "expected (n, F)"),
        (npy(described("(2.0, 4)")), "not a readable .npy file"),
        (npy(described("3")), "not a readable .npy file"),
        (npy(described("(" * 3000 + ")" * 3000)), "not a readable .npy file"),
        (npy(described("(4, 4)", "'|O'")), "features are object"),
        (npy(described("(4, 4)", "'<c8'")), "features are complex64"),
        (npy(described("(4, 4)", "[('a', '<f4'), ('b', '<f4')]")), "convert them to float32"),
        (npy(described("(4, 4)", "'<f999999999999'")), "not a readable .npy file"),
        (npy(described("(4, 4)", "('<f4', (2,))")), "features are"),
        (npy(described("(4, 4)", order="3")), "not a readable .npy file"),
        (npy("[]"), "not a readable .npy file"),
        (npy("", b"\2\0", 2**32 - 1), "a header of 4,294,967,295 bytes"),
        (npy("", b"\3\0", 10_001), "a header of 10,001 bytes"),
        (npy("", b"\1\0", 65535), "a header of 65,535 bytes"),
        (npy("", b"\7\0"), "not a readable .npy file"),
        (npy(described("(4, 4)"), b"\2\0")[:40], "not a readable .npy file"),
    ],
)
def test_npy_headers_that_lie(content, says, tmp_path):
    assert says in refused(make(tmp_path / "f.npy", content))


def test_a_sparse_npy_of_too_many_rows_is_refused_unread(tmp_path):
    path = make(tmp_path / "f.npy", npy(described("(500000000000, 1)", "'<f2'")))
    os.truncate(path, 2 * 10**12)
    assert "500,000,000,000 rows are more than 268,435,456" in refused(path)


def test_fortran_order_is_read_in_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    source = open_source(tmp_path / "f.npy", "train")
    np.testing.assert_array_equal(source.vectors(slice(2, 6)), x[2:6])
    np.testing.assert_array_equal(source.vectors(np.array([5, 0])), x[[5, 0]])


@pytest.mark.parametrize("name", ["f.npy", "f.h5", "f.hdf5", "f.tar", "f.tar.gz"])
def test_a_pipe_or_a_device_is_refused_without_waiting(name, tmp_path):
    os.mkfifo(tmp_path / name)
    assert "Not a regular file" in refused(tmp_path / name, OSError)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert "Not a regular file" in refused(tmp_path / name, OSError)
