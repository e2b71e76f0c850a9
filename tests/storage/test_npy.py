"""Headers of .npy files are judged before anything is allocated or mapped."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.bundle.items import read_removed
from mecoq_faiss.storage.npy import check_int64, read_header


def npy(header: str, data: bytes = bytes(24), version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def told(descr: str, shape: str) -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n"


BAD = (
    npy(told("<i8", "(4,)")), npy(told("<i8", "(4611686018427387904,)")), npy(told("<i8", "(18446744073709551616,)")),
    npy(told("<i8", "(1, 3)")), npy(told("<i8", "()")), npy(told("<i8", "(-1,)")), npy(told("|V0", "(3,)")),
    npy(told("<f8", "(3,)")), npy(told("|O", "(3,)")), npy(told("<i4", "(6,)")), npy("{'descr': ("), npy("(" * 5000),
    npy(told("<i8", "(3,)"), version=b"\x09\x00"), b"PK\x03\x04", b"", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f",
)  # fmt: skip


@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
def test_what_is_no_list_of_int64_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "removed.npy"
    path.write_bytes(content)
    with open(path, "rb") as file, pytest.raises(ValueError) as caught:
        check_int64(file)
    assert len(str(caught.value).splitlines()) == 1
    with open(path, "rb") as file, pytest.raises(ValueError, match=r"removed\.npy is damaged \("):
        read_removed(file)


def test_a_whole_list_is_left_at_its_start(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1, 5, 7]))
    with open(tmp_path / "x.npy", "rb") as file:
        check_int64(file)
        assert file.tell() == 0 and read_removed(file).tolist() == [1, 5, 7]


def test_the_header_is_read_up_to_the_data() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 3), np.float16))
    file.seek(0)
    assert read_header(file) == ((2, 3), np.dtype(np.float16)) and len(file.read()) == 12
