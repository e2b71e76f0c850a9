"""HDF5 files on a full disk, and the checksums of their datasets."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.storage import hdf5
from mecoq_faiss.storage.hdf5 import SHA256, DatasetHash, create_hdf5, damaged_dataset, read_checksums

X = np.arange(60, dtype=np.float32).reshape(20, 3)
NAMES = np.array([f"bild-ü-{i}" for i in range(20)], dtype=object)


def whole_hash(*pieces: np.ndarray) -> str:
    digest = DatasetHash()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with create_hdf5(tmp_path / "a.h5") as file:
        file["x"], file["names"] = X, NAMES
        file.attrs[SHA256] = json.dumps({"x": whole_hash(X), "names": whole_hash(NAMES)})
    return tmp_path / "a.h5"


def test_it_is_a_plain_hdf5_file(written: Path) -> None:
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["x"][:], X)
        assert file["names"].asstr()[:].tolist() == NAMES.tolist()


def test_attributes_larger_than_64_kb(tmp_path: Path) -> None:
    with create_hdf5(tmp_path / "a.h5") as file:
        file.attrs["class_names"] = "n" * 200_000
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["class_names"] == "n" * 200_000


def test_an_error_of_the_writer_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), create_hdf5(tmp_path / "a.h5") as file:
        file["x"] = X
        raise KeyError("mine")


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from mecoq_faiss.storage.hdf5 import create_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with create_hdf5(Path(sys.argv[1])) as file:
        file["x"] = np.ones((50, 100))
except OSError as error:
    sys.exit(f"caught {error.errno}: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
@pytest.mark.parametrize("room", [0, 100, 2000, 40_000])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.h5"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), str(room)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    says = f"caught 27: [Errno 27] File too large while writing: make room and run the same again: '{path}'\n"
    assert done.stderr == says
    assert path.stat().st_size <= room


READ_BACK = """
import resource, sys
from pathlib import Path
import h5py
from mecoq_faiss.storage.hdf5 import create_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
texts = [b"text %d" % i for i in range(2000)]
try:
    with create_hdf5(Path(sys.argv[1])) as file:
        dataset = file.create_dataset("texts", shape=2000, data=texts, dtype=h5py.string_dtype())
        print("as written" if dataset[:].tolist() == texts else "otherwise", flush=True)
        file["texts"]
        print("went on")
except OSError as error:
    sys.exit(f"caught {error.errno}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
def test_what_a_full_disk_lost_is_read_back_and_the_next_step_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READ_BACK, str(tmp_path / "a.h5")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "as written\n", "caught 27\n")


def test_the_hash_is_of_the_bytes_whatever_the_pieces() -> None:
    assert whole_hash(X) == hashlib.sha256(X.tobytes()).hexdigest()
    assert whole_hash(X[:7], X[7:7], X[7:]) == whole_hash(np.asfortranarray(X)) == whole_hash(X)
    assert whole_hash(NAMES[:3], NAMES[3:]) == whole_hash(NAMES)
    assert whole_hash(np.array([name.encode() for name in NAMES], object)) == whole_hash(NAMES)


def test_strings_do_not_run_into_one_another() -> None:
    texts = (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"])
    assert len({whole_hash(np.array(text, object)) for text in texts}) == len(texts)


@pytest.mark.parametrize("block", [1, 24, 1 << 24])
def test_a_damaged_dataset_is_named(written: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", block)
    assert damaged_dataset(written) is None
    with h5py.File(written, "r+") as file:
        file["x"][19, 2] += 1
    assert damaged_dataset(written) == "x"
    with h5py.File(written, "r+") as file:
        file["x"][19, 2] -= 1
        file["names"][0] = "another"
    assert damaged_dataset(written) == "names"
    with h5py.File(written, "r+") as file:
        del file["names"]
    assert damaged_dataset(written) == "names"


@pytest.mark.parametrize("value", [None, "", "[1", "7", 3])
def test_files_without_checksums(tmp_path: Path, value: object) -> None:
    with create_hdf5(tmp_path / "a.h5") as file:
        file["x"] = X
        if value is not None:
            file.attrs[SHA256] = value
        assert read_checksums(file) == {}
    assert damaged_dataset(tmp_path / "a.h5") is None


def test_no_hdf5_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"text")
    with pytest.raises(OSError):
        damaged_dataset(tmp_path / "a.h5")
