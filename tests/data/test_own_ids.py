"""Own ids from files: those that were written, from every kind of file, and one line for what holds none."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.data.own_ids import read_ids

IDS = np.array([7, -3, 2**40], np.int64)


@pytest.mark.parametrize("name", ["ids.npy", "ids.h5", "ids.csv", "ids.jsonl"])
def test_ids_come_back_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "ids.npy":
        np.save(path, IDS)
    elif name == "ids.h5":
        with h5py.File(path, "w") as file:
            file["ids"] = IDS
    elif name == "ids.csv":
        path.write_text("name,id\n" + "".join(f"x,{i}\n" for i in IDS))
    else:
        path.write_text("".join(f'{{"id": {i}, "name": "x"}}\n' for i in IDS))
    found = read_ids(path)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, IDS)


def test_what_holds_no_ids_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npy: give a \.npy file of int64"):
        read_ids(tmp_path / "none.npy")
    np.save(tmp_path / "floats.npy", np.ones(3))
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    (tmp_path / "other.csv").write_text("name\nx\n")
    for name, says in (("floats.npy", "holds no ids"), ("broken.h5", "holds no ids"), ("other.csv", "no column id")):
        with pytest.raises(ValueError, match=rf"{name} .*{says}.*give a \.npy file of int64") as error:
            read_ids(tmp_path / name)
        assert "\n" not in str(error.value)
