"""Lists of an .h5 of features as the user's table: numbers, texts and true or false; what lies elsewhere stays out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mecoq_faiss.data.given import Table, check_given, load_given, open_given
from mecoq_faiss.storage.table import connected
from tests.bounded import refusal
from tests.data.files import write_h5

X = np.ones((3, 2), np.float32)


def loaded(path: Path) -> tuple[dict[str, str], list[tuple]]:
    with open_given(path) as file, connected([file]) as connection:
        _, columns = load_given(connection, file)
        return columns, connection.execute("FROM given").fetchall()


def test_lists_as_long_as_the_features_are_columns(tmp_path: Path) -> None:
    path = write_h5(
        tmp_path / "f.h5", features=X, paths=["a", "b", "ü"], labels=[0, 1, 0], ids=[7, 8, 9], class_names=["x", "y"],
        year=np.array([2001, 2002, 2003], ">i2"), half=np.array([0, 0.5, 1], np.float16),
        sure=np.array([True, False, True]), text=["p", "it's", ""], matrix=X, longer=np.arange(4),
    )  # fmt: skip
    write_h5(tmp_path / "other.h5", secret=np.arange(3))
    with h5py.File(path, "r+") as file:
        file["soft"], file["outside"] = h5py.SoftLink("/year"), h5py.ExternalLink("other.h5", "/secret")
        file.create_group("group")
    columns, rows = loaded(path)
    assert columns == {"half": "DOUBLE", "sure": "BOOLEAN", "text": "VARCHAR", "year": "BIGINT"}
    assert rows == [("a", 0.0, True, "p", 2001), ("b", 0.5, False, "it's", 2002), ("ü", 1.0, True, "", 2003)]


def test_without_paths_rows_are_numbered(tmp_path: Path) -> None:
    assert loaded(write_h5(tmp_path / "f.h5", embeddings=X, n=[4, 5, 6]))[1] == [("0", 4), ("1", 5), ("2", 6)]


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    for datasets, said in (
        ({"n": [1, 2, 3]}, "has no dataset 'features'"),
        ({"features": X}, "has no column besides path"),
        ({"features": X, "z": np.ones(3, np.complex64)}, "z is complex64"),
        ({"features": X, "n": np.full(3, 2**64 - 1, np.uint64)}, "cannot be read"),
        ({"features": X, "paths": ["a", "a", "b"], "n": [1, 2, 3]}, "the first is 'a'"),
        ({"features": X, "Label": [1, 2, 3]}, "is a name that items have"),
    ):
        write_h5(path, **datasets)
        assert "f.h5" in refusal(lambda: check_given(Table(path)), said)
    with h5py.File(path, "w") as file:
        file["features"] = X
        file.create_dataset("n", (3,), "i8", external=[("other.bin", 0, 24)])
    assert refusal(lambda: check_given(Table(path)), "takes its data from other files")
