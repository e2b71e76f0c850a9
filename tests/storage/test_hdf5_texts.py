"""Rows that hold some texts, found in a file's bytes, are those that a loop over the strings finds."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.storage.hdf5_texts import likely_rows


def written(path: Path, texts: list[bytes], block: int, *, copied: bool = False) -> Path:
    """The texts as a dataset `paths`, `block` at a time; `copied` as HDF5 copies a dataset into another file."""
    with h5py.File(path, "w", libver=("v108", "latest")) as file:
        made = file.create_dataset("paths", (len(texts),), h5py.string_dtype())
        for start in range(0, len(texts), block):
            part = texts[start : start + block]
            made[start : start + len(part)] = np.array(part, object)
    if not copied:
        return path
    copy = path.with_name("copy.h5")
    with h5py.File(path) as file, h5py.File(copy, "w", libver=("v108", "latest")) as target:
        target["odd"] = np.zeros(3, np.uint8)  # moves what follows off multiples of 8
        file.copy(file["paths"], target, "paths", without_attrs=True)
    return copy


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("block", [1000, 30_000])
def test_they_are_those_of_a_loop(tmp_path: Path, block: int, copied: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 70, 20_000)
    texts = [rng.integers(97, 123, length, np.uint8).tobytes() for length in lengths]
    texts[7], texts[19_000] = b"x" * 70_000, texts[3]  # larger than a heap; twice there
    wanted = {texts[3], texts[7], texts[19_999], "ü/é.jpg".encode(), texts[11][:-1] + b"\0"}
    path = written(tmp_path / "a.h5", texts, block, copied=copied)
    with h5py.File(path) as file:
        found = likely_rows(file["paths"], path, wanted)
    expected = [row for row, text in enumerate(texts) if text in wanted]
    assert set(expected) <= set(found.tolist())
    assert len(found) <= len(expected) + 5, "hardly one that is not wanted"


def test_texts_that_differ_in_one_byte_are_told_apart(tmp_path: Path) -> None:
    texts = [b"folder/%05d.jpg" % i for i in range(5000)]
    path = written(tmp_path / "a.h5", texts, 5000)
    with h5py.File(path) as file, open(path, "rb") as opened:
        assert likely_rows(file["paths"], opened, [texts[4321], b"folder/04321.png"]).tolist() == [4321]
        assert likely_rows(file["paths"], opened, []).tolist() == []


def test_what_does_not_lie_as_usual_is_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [b"a", b"bb", b"ccc"], 3)
    content = path.read_bytes()
    with h5py.File(path) as file:
        everyone = likely_rows(file["paths"], path, [b""])
        damaged = tmp_path / "b.h5"
        damaged.write_bytes(content.replace(b"GCOL", b"COLG"))
        without_heaps = likely_rows(file["paths"], damaged, [b"bb"])
    assert everyone.tolist() == without_heaps.tolist() == [0, 1, 2]
