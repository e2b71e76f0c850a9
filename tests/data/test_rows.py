"""Rows of features are read when indexed, as numpy would give them, from every layout of a file."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.data.rows import FeatureRows
from mecoq_faiss.data.sources import FeatureSource, open_source
from tests.data.files import write_h5


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


def rows_of(path: Path, truth: np.ndarray, dataset: str | None = None) -> FeatureRows:
    return FeatureRows(str(path), dataset, truth.shape, truth.dtype, None)


def test_chosen_rows_of_chosen_rows(tmp_path):
    truth = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "f.npy", truth)
    write_h5(tmp_path / "f.h5", x=truth)
    for rows in (rows_of(tmp_path / "f.npy", truth), rows_of(tmp_path / "f.h5", truth, "x")):
        few = rows.take(np.array([20, 3, 3, 29, 0])).take(np.array([4, 1, 0]))
        assert few.shape == (3, 4) and len(few) == 3 and few.ndim == 2
        np.testing.assert_array_equal(few[:], truth[[0, 3, 20]])
        np.testing.assert_array_equal(few[-1], truth[20])
        assert len(rows) == 30, "the whole is left as it was"


def test_as_an_array(tmp_path):
    truth = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "f.npy", truth)
    rows = rows_of(tmp_path / "f.npy", truth)
    assert np.array_equal(np.asarray(rows), truth) and np.asarray(rows, dtype=np.float64).dtype == np.float64
    copied = np.array(rows)
    copied[0] = 9
    np.testing.assert_array_equal(rows[:], truth)


def test_the_fingerprint_is_of_file_dataset_and_rows(tmp_path):
    truth = np.ones((5, 2), np.float32)
    path = write_h5(tmp_path / "f.h5", a=truth, b=truth)
    a, b = rows_of(path, truth, "a"), rows_of(path, truth, "b")
    prints = {rows.fingerprint for rows in (a, b, a.take(np.arange(4)), a.take(np.arange(5)[::-1]))}
    assert len(prints) == 4 and a.take(np.arange(5)).fingerprint == a.fingerprint
    assert pickle.loads(pickle.dumps(a)).fingerprint == a.fingerprint


def test_a_process_that_forks_reads_on(tmp_path):
    truth = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    write_h5(tmp_path / "f.h5", x=truth)
    rows = rows_of(tmp_path / "f.h5", truth, "x")
    np.testing.assert_array_equal(rows[2:5], truth[2:5])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for i, row in enumerate(pool.map(rows.__getitem__, range(20))):
            np.testing.assert_array_equal(row, truth[i])
