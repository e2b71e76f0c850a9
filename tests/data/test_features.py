"""Files of features: paths, labels and class names, and what is refused."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from mecoq_faiss.data.features import open_features
from mecoq_faiss.data.own_ids import read_ids
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.index import check_ids
from tests.bounded import refusal
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


def _put(name, value):
    return lambda file: file.__setitem__(name, value)


def _virtual(name, shape, dtype):
    def make(file):
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource("other.h5", name, shape, dtype)
        file.create_virtual_dataset(name, layout)

    return make


HOSTILE = {
    "a link as features": _put("features", h5py.ExternalLink("other.h5", "/features")),
    "a soft link": _put("features", h5py.SoftLink("/x")),
    "a link as paths": _put("paths", h5py.ExternalLink("other.h5", "/paths")),
    "a link as labels": _put("labels", h5py.ExternalLink("other.h5", "/labels")),
    "a link as class_names": _put("class_names", h5py.SoftLink("/paths")),
    "virtual features": _virtual("features", (3, 2), "f4"),
    "virtual labels": _virtual("labels", (3,), "i8"),
    "features outside": lambda file: file.create_dataset("features", (3, 2), "f4", external=[("other.bin", 0, 24)]),
    "paths of a group": lambda file: file.create_group("paths"),
    "labels of a group": lambda file: file.create_group("labels"),
    "features of a group": lambda file: file.create_group("features"),
    "features of nothing": _put("features", h5py.Empty("f4")),
    "labels of nothing": _put("labels", h5py.Empty("i8")),
    "2e9 rows": lambda file: file.create_dataset("features", (2 * 10**9, 2), "f4", chunks=(2**16, 2), compression=9),
    "2e9 unwritten rows": lambda file: file.create_dataset("features", (2 * 10**9, 2), "f4"),
    "2e6 rows in 8 KB": lambda file: file.create_dataset(
        "features", data=np.zeros((2 * 10**6, 1), np.float32), chunks=(2**16, 1), compression=9
    ),
    "wide labels": lambda file: file.create_dataset("labels", (3, 2**30), "u1", chunks=(3, 2**16), compression=9),
    "references as paths": lambda file: file.create_dataset("paths", (3,), h5py.ref_dtype),
    "references as labels": lambda file: file.create_dataset("labels", (3,), h5py.ref_dtype),
    "arrays as labels": lambda file: file.create_dataset("labels", (3,), h5py.vlen_dtype(np.int64)),
    "compound features": lambda file: file.create_dataset("features", (3, 2), [("a", "f4")]),
    "2e9 class names": lambda file: file.create_dataset("class_names", (2 * 10**9,), h5py.string_dtype()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_feature_files(tmp_path, case):
    write_h5(
        tmp_path / "other.h5", features=np.ones((3, 2), np.float32), paths=["secret"] * 3, labels=np.array([0, 1, 2])
    )
    make(tmp_path / "other.bin", bytes(24))
    path = write_h5(tmp_path / "f.h5", x=np.ones((3, 2), np.float32))
    with h5py.File(path, "r+") as file:
        HOSTILE[case](file)
        if "features" not in file and file.get("features", getlink=True) is None:
            file["features"] = np.ones((3, 2), np.float32)
        if "class" in case:
            file["labels"] = [0, 1, 1]
    assert "secret" not in refusal(lambda: open_source(path, "train"), str(path))


def test_several_packed_layouts_are_read(tmp_path):
    """Sorted labels and long runs pack a thousandfold; names may be of fixed width, or no UTF-8."""
    n = 50_000
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        options = {"chunks": True, "compression": "gzip"}
        file.create_dataset("features", data=x, **options)
        file.create_dataset("labels", data=np.arange(n) // 25_000, **options)
        file.create_dataset("paths", data=np.array([b"caf\xe9"] * n), **options)
        file.create_dataset("class_names", data=["cat", "dog"], dtype=h5py.string_dtype(), chunks=(1,))
    source = open_source(tmp_path / "f.h5", "train")
    np.testing.assert_array_equal(source.features[:], x)
    assert source.labels.tolist() == [0] * 25_000 + [1] * 25_000
    assert source.class_names == ("cat", "dog") and set(source.paths) == {r"caf\xe9"}


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f4'}",
        "(" * 5000,
        "[" * 5000,
        "{'a': " * 1500,
        "'''",
        "\x00",
        "1" * 5000,
        "__import__('os')",
    ],
    ids=range(16),
)
def test_hostile_npy_headers(tmp_path, header):
    """As features, and as the ids of an export."""
    text = header.encode() + b"\n"
    path = make(tmp_path / "f.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
    refusal(lambda: open_source(path, "train"), str(path))
    refusal(lambda: check_ids(read_ids(path), 3), str(path), "ids must be an int64 array")
