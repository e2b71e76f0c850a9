"""Files of features: paths, labels and class names, and what is refused."""

from __future__ import annotations

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
