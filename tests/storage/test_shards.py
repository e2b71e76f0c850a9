"""Sharded HDF5: equal to one-shot writing, however often it was killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from mecoq_faiss.storage import shards
from mecoq_faiss.storage.files import InUseError
from mecoq_faiss.storage.hdf5 import damaged_dataset
from mecoq_faiss.storage.shards import bytes_written, map_array, read_key, write_in_shards

SIZES = (3, 0, 4, 2, 5, 0, 1)  # rows of each batch
KEY = {"data": "abc", "views": 2}


def batch(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    n = SIZES[i]
    return {
        "x": rng.normal(size=(n, 2, 3)).astype(np.float16),
        "labels": rng.integers(0, 9, n),
        "paths": np.array([f"ordner/bild-ü-{i}-{j}.jpg" for j in range(n)], dtype=object),
    }


def batches(start: int):
    for i in range(start, len(SIZES)):
        yield batch(i)


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: (data.asstr()[:] if data.dtype == object else data[:]) for name, data in file.items()}


def assert_whole(path: Path) -> None:
    expected = [batch(i) for i in range(len(SIZES))]
    found = content(path)
    assert set(found) == {"x", "labels", "paths"}
    for name, array in found.items():
        whole = np.concatenate([arrays[name] for arrays in expected])
        np.testing.assert_array_equal(array, whole)
        assert array.dtype == whole.dtype
    assert read_key(path) == KEY
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("batches_per_shard", [1, 2, 3, 7, 100])
def test_shards_give_what_one_shot_gives(tmp_path, batches_per_shard):
    out = tmp_path / "out.h5"
    write_in_shards(out, batches, len(SIZES), batches_per_shard, KEY, {"class_names": ["a", "ü"]})
    assert_whole(out)
    with h5py.File(out) as file:
        assert list(file.attrs["class_names"]) == ["a", "ü"]


@pytest.mark.parametrize("fails_at", range(len(SIZES)))
def test_a_stopped_run_continues_at_its_first_missing_shard(tmp_path, fails_at):
    def stops(start: int):
        for i in range(start, len(SIZES)):
            if i == fails_at:
                raise KeyboardInterrupt
            yield batch(i)

    started = []

    def continues(start: int):
        started.append(start)
        return batches(start)

    out = tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        write_in_shards(out, stops, len(SIZES), 2, KEY)
    assert not out.exists()
    assert (bytes_written(out) > 2000) == (fails_at >= 2)
    write_in_shards(out, continues, len(SIZES), 2, KEY)
    assert started == [fails_at // 2 * 2]
    assert_whole(out)


def test_a_run_stopped_while_its_shards_are_joined(tmp_path, monkeypatch):
    out = tmp_path / "out.h5"
    merge = shards._merge
    monkeypatch.setattr(shards, "_merge", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_in_shards(out, batches, len(SIZES), 2, KEY)
    (tmp_path / "out.h5.parts" / ".whole.h5.123.tmp").write_text("half")  # what a kill -9 leaves
    monkeypatch.setattr(shards, "_merge", merge)
    write_in_shards(out, lambda start: pytest.fail("every shard is there"), len(SIZES), 2, KEY)
    assert_whole(out)


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mecoq_faiss.storage.shards import write_in_shards
from test_shards import KEY, SIZES, batch

def slow(start):
    for i in range(start, len(SIZES)):
        yield batch(i)
        if i >= 3:
            time.sleep(60)

write_in_shards(Path(sys.argv[2]), slow, len(SIZES), 2, KEY)
"""


def test_kill_9(tmp_path):
    out = tmp_path / "out.h5"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(Path(__file__).parent), str(out)])

    def second() -> list[Path]:
        return list((tmp_path / "out.h5.parts").glob("000001-*.h5"))

    try:
        for _ in range(600):
            if second() or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert second() and not out.exists()
    started = []
    write_in_shards(out, lambda start: started.append(start) or batches(start), len(SIZES), 2, KEY)
    assert started == [4]
    assert_whole(out)


def test_shards_of_another_key_are_thrown_away(tmp_path):
    def stops(start: int):
        yield {"x": np.zeros(3)}
        raise KeyboardInterrupt

    out = tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        write_in_shards(out, stops, len(SIZES), 1, KEY | {"views": 3})
    write_in_shards(out, batches, len(SIZES), 1, KEY)
    assert_whole(out)


def stopped(out: Path) -> list[Path]:
    """An unfinished run with its first three shards of one batch each."""

    def stops(start: int):
        yield from (batch(i) for i in range(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_in_shards(out, stops, len(SIZES), 1, KEY)
    parts = sorted(out.with_name(out.name + ".parts").glob("??????-*.h5"))
    assert len(parts) == 3
    return parts


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "text"])
def test_a_damaged_shard_is_made_again_and_no_other(tmp_path, harm, caplog):
    out = tmp_path / "out.h5"
    second = stopped(out)[1]
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes({"cut": data[:900], "flipped": data, "emptied": b"", "text": b"no HDF5"}[harm])
    started = []
    write_in_shards(out, lambda start: started.append(start) or batches(start), len(SIZES), 1, KEY)
    assert started == [1, 3] and str(second) in caplog.text
    assert_whole(out)


def test_a_shard_killed_before_its_name_is_made_again(tmp_path, caplog):
    out, begun = tmp_path / "out.h5", []

    def stopped(start):
        for i in range(start, 4):
            yield batch(i)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_in_shards(out, stopped, len(SIZES), 2, KEY)
    (tmp_path / "out.h5.parts" / "000002.h5").write_bytes(b"written, its checksum not yet in its name")

    def rest(start):
        begun.append(start)
        yield from batches(start)

    with caplog.at_level("WARNING", "mecoq_faiss"):
        write_in_shards(out, rest, len(SIZES), 2, KEY)
    assert begun == [4] and not caplog.records
    assert_whole(out)


def test_a_key_with_a_bad_byte_is_made_again(tmp_path):
    out = tmp_path / "out.h5"
    stopped(out)
    (tmp_path / "out.h5.parts" / "key.json").write_bytes(b"{\xff")
    write_in_shards(out, batches, len(SIZES), 1, KEY)
    assert_whole(out)


def test_two_on_one_file(tmp_path):
    out = tmp_path / "out.h5"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(Path(__file__).parent), str(out)])
    try:
        for _ in range(600):
            if list(tmp_path.glob("out.h5.parts/000001-*.h5")):
                break
            time.sleep(0.1)
        with pytest.raises(InUseError, match=f"is in use by process {process.pid}"):
            write_in_shards(out, batches, len(SIZES), 2, KEY)
    finally:
        process.kill()
        process.wait()
    write_in_shards(out, batches, len(SIZES), 2, KEY)
    assert_whole(out)


def test_every_dataset_has_a_checksum(tmp_path):
    out = tmp_path / "out.h5"
    write_in_shards(out, batches, len(SIZES), 2, KEY)
    assert damaged_dataset(out) is None
    for name in ("x", "labels", "paths"):
        with h5py.File(out) as file:
            value = file[name][:]
        value[0] = value[0] + (b"?" if name == "paths" else 1)
        with h5py.File(out, "r+") as file:
            before = file[name][:]
            file[name][...] = value
        assert damaged_dataset(out) == name
        with h5py.File(out, "r+") as file:
            file[name][...] = before
    assert damaged_dataset(out) is None


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from mecoq_faiss.storage.shards import write_in_shards
from test_shards import KEY
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
names = np.array([str(i) for i in range(50)], object)
rows = [{"x": np.full((50, 100), i, np.float32), "paths": names} for i in range(4)]
try:
    write_in_shards(Path(sys.argv[2]), lambda start: iter(rows[start:]), 4, 1, KEY)
except OSError as error:
    sys.exit(f"caught: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
@pytest.mark.parametrize("room", [0, 100, 900, 4000, 8000, 20_000, 32_000, 60_000, 90_000])
def test_a_full_disk_is_one_error_and_what_is_done_is_kept(tmp_path, room):
    out = tmp_path / "out.h5"
    arguments = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(out)]
    done = subprocess.run([*arguments, str(room)], capture_output=True, text=True)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "File too large" in done.stderr and "caught" in done.stderr
    assert (len(list(tmp_path.glob("out.h5.parts/0*-*.h5"))) == 4) == (room >= 32_000)
    again = subprocess.run([*arguments, str(1 << 30)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert damaged_dataset(out) is None and len(content(out)["x"]) == 200 and os.listdir(tmp_path) == ["out.h5"]


def test_no_rows_at_all(tmp_path):
    def empty(start: int):
        yield {"x": np.zeros((0, 2)), "paths": np.array([], dtype=object)}

    with pytest.raises(ValueError, match="no readable image"):
        write_in_shards(tmp_path / "out.h5", empty, 1, 1, KEY, require="x")
    with pytest.raises(ValueError, match="the source is empty"):
        write_in_shards(tmp_path / "out.h5", batches, 0, 1, KEY, require="x")
    assert os.listdir(tmp_path) == []
    write_in_shards(tmp_path / "out.h5", empty, 1, 1, KEY)
    assert {name: array.shape for name, array in content(tmp_path / "out.h5").items()} == {"x": (0, 2), "paths": (0,)}


def test_names_that_are_not_utf8_and_many_class_names(tmp_path):
    names = np.array([os.fsdecode(b"caf\xe9.jpg"), "ü.jpg"], dtype=object)
    attributes = {"class_names": [f"class {i}" for i in range(20_000)]}
    write_in_shards(tmp_path / "out.h5", lambda start: iter([{"paths": names}]), 1, 1, KEY, attributes)
    assert content(tmp_path / "out.h5")["paths"].tolist() == ["caf\\udce9.jpg", "ü.jpg"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file.attrs["class_names"]) == attributes["class_names"]


def test_memory_does_not_grow_with_the_number_of_batches(tmp_path):
    def peak(num_batches: int) -> int:
        tracemalloc.start()
        zeros = ({"x": np.zeros((1000, 32))} for _ in range(num_batches))  # 256 kB each
        write_in_shards(tmp_path / "out.h5", lambda start: zeros, num_batches, 2, KEY)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4) > 500_000  # the measure sees a shard
    assert peak(40) < 1.5 * peak(4)


def test_read_key_of_other_files(tmp_path):
    assert read_key(tmp_path / "none.h5") is None
    (tmp_path / "text.h5").write_text("no HDF5")
    assert read_key(tmp_path / "text.h5") is None
    with h5py.File(tmp_path / "keyless.h5", "w"):
        pass
    assert read_key(tmp_path / "keyless.h5") is None


def test_map_array(tmp_path):
    out = tmp_path / "out.h5"
    write_in_shards(out, batches, len(SIZES), 2, KEY)
    mapped = map_array(out, "x")
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, content(out)["x"])
    assert map_array(out, "paths")[0] == "ordner/bild-ü-0-0.jpg".encode()
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["empty"] = np.zeros((0, 4), np.float32)
        file.create_dataset("chunked", data=np.arange(6), chunks=(2,), compression="gzip")
    assert map_array(tmp_path / "more.h5", "empty").shape == (0, 4)
    np.testing.assert_array_equal(map_array(tmp_path / "more.h5", "chunked"), np.arange(6))
