"""Segments: what is written is read again, with checksums; all of a bundle's segments make one."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from mecoq_faiss.bundle.folder import pinned, read_items
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.living import drop
from mecoq_faiss.bundle.segments import all_columns, write_items, write_segment, write_together
from mecoq_faiss.storage.hdf5 import damaged_dataset, read_checksums
from tests.bundle.hostile import OLD, N, old_bundle

ARRAYS = {"codes": np.arange(6, dtype=np.uint8).reshape(3, 2), "paths": np.array(["a", "é\n", "\udcff"], object)}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_segment(tmp_path / "s.h5", ARRAYS, {"nbits": 8})
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["codes"][:], ARRAYS["codes"])
        assert file["paths"].asstr()[:].tolist() == ["a", "é\n", "\\udcff"]
        assert file.attrs["nbits"] == 8 and read_checksums(file).keys() == ARRAYS.keys()
    assert damaged_dataset(tmp_path / "s.h5") is None
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["codes"][2, 1] += 1
    assert damaged_dataset(tmp_path / "s.h5") == "codes"


def test_own_ids_take_the_place_of_row_numbers(tmp_path: Path) -> None:
    for ids in (None, np.arange(N)[::-1] * 3):
        write_items(OLD / "encoded.h5", tmp_path / "items.h5", ids)
        found, source = read_items(tmp_path / "items.h5"), read_items(OLD / "encoded.h5")
        np.testing.assert_array_equal(found["ids"], source["ids"] if ids is None else ids)
        np.testing.assert_array_equal(found["codes"], source["codes"])
        with h5py.File(tmp_path / "items.h5") as file:
            assert "embeddings" not in file
            assert json.loads(file.attrs["key"])["model"]


def test_what_is_removed_is_not_in_the_file_of_all(tmp_path: Path) -> None:
    bundle = old_bundle(tmp_path)
    with pinned(bundle) as files, items_in(files) as items:
        before, _ = all_columns(items)
    drop(bundle, before["ids"][[0, 7]], device="cpu")
    write_together(bundle, tmp_path / "all.h5")
    assert damaged_dataset(tmp_path / "all.h5") is None
    with h5py.File(tmp_path / "all.h5") as file:
        for name in ("codes", "ids", "labels"):
            np.testing.assert_array_equal(file[name][:], np.delete(before[name], [0, 7], axis=0))
        assert file["paths"].asstr()[:].tolist() == np.delete(before["paths"], [0, 7]).tolist()
        assert list(file.attrs["class_names"]) == ["a", "b"]
