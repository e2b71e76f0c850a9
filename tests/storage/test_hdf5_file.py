"""A heap of texts that would have HDF5 go round for ever is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from mecoq_faiss.storage.hdf5_file import is_endless, open_hdf5

READ = "import sys; from mecoq_faiss.storage.hdf5_file import open_hdf5\nwith open_hdf5(sys.argv[1]) as f: print({})"


def written(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        file.create_dataset("paths", data=["a.png", "b.png"], dtype=h5py.string_dtype())
        file.attrs["key"] = "{}"
    return path.read_bytes()


def damaged(content: bytes) -> bytes:
    """The free room of the heap, which is its object 0, gets no length."""
    heap = content.index(b"GCOL")
    place = heap + 16
    while content[place : place + 2] != b"\0\0":
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    return content[:place] + bytes(16) + content[place + 16 :]


@pytest.mark.parametrize("what", ["f['paths'][:]", "f.attrs['key']"])
def test_an_endless_heap_is_an_error_at_once(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(damaged(written(path)))
    done = subprocess.run(
        [sys.executable, "-c", READ.format(what), path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "goes round for ever" in done.stderr.splitlines()[-1]


def test_other_files_are_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(path)
    with open_hdf5(path) as file, open(path, "rb") as raw, open_hdf5(raw) as again:
        assert file["paths"].asstr()[:].tolist() == again["paths"].asstr()[:].tolist() == ["a.png", "b.png"]
        assert file.filename == again.filename == str(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(OSError), open_hdf5(path):
        pass


def test_what_an_endless_heap_is() -> None:
    def heap(*objects: tuple[int, int]) -> bytes:
        body = b""
        for number, size in objects:
            body += number.to_bytes(2, "little") + bytes(6) + size.to_bytes(8, "little")
            body += bytes(-(-size // 8) * 8 if number else size - 16 if size else 0)
        return b"GCOL\1\0\0\0" + (16 + len(body)).to_bytes(8, "little") + body

    assert not is_endless(heap()) and not is_endless(heap((1, 3), (2, 0), (0, 32)))
    assert is_endless(heap((1, 3), (0, 0))) and is_endless(heap((0, 0)))
