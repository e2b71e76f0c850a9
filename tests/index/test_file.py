"""Index files: round trips of every kind, damage and failed writes."""

from __future__ import annotations

import signal
import sys
import threading
import time

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, describe_index, load_index, read_codebooks, read_codes, save_index
from tests.index.truth import arrays, every_case, every_kind


@every_case
def test_round_trip_through_a_file(kind, M, K, options, tmp_path):
    codebooks, codes, xq = arrays(1001, M, K)
    ids = np.arange(1001) * 3 + (1 << 33)
    index = build_index(codebooks, codes, kind, ids=ids, **options)
    save_index(index, tmp_path / "index.faiss")
    D, I = index.search(xq, 10)
    for mmap in (False, True):
        again = load_index(tmp_path / "index.faiss", mmap=mmap)
        np.testing.assert_array_equal(read_codebooks(again), codebooks)
        np.testing.assert_array_equal(read_codes(again), codes)
        assert describe_index(again) == describe_index(index)
        D_again, I_again = again.search(xq, 10)
        np.testing.assert_array_equal(D_again, D)
        np.testing.assert_array_equal(I_again, I)
    plain = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(plain.search(xq, 10)[0], D)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


@every_kind
def test_damaged_files(kind, K, tmp_path):
    path = tmp_path / "index.faiss"
    index = build_index(*arrays(1001, 4, K)[:2], kind, ids=np.arange(1001), refine=kind.endswith("fs"))
    save_index(index, path)
    data = path.read_bytes()
    for size in [*range(0, len(data), len(data) // 50), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut short") as caught:
            load_index(path)
        assert "\n" not in str(caught.value)
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    assert limits == (1 << 40, 0)  # FAISS's own, put back


def test_foreign_and_missing_files(tmp_path):
    for content in (b"", b"not an index of any kind", b"\x89HDF\r\n\x1a\n" * 100):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(ValueError, match="no FAISS index"):
            load_index(tmp_path / "foreign")
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="no index file"):
            load_index(missing)


def test_a_size_that_the_file_cannot_hold(tmp_path):
    path = tmp_path / "index.faiss"
    save_index(build_index(*arrays(10, 1, 2)[:2]), path)
    data = bytearray(path.read_bytes())
    position = data.index((10 * 1).to_bytes(8, "little"), 37)  # the length of the codes
    data[position : position + 8] = (1 << 39).to_bytes(8, "little")  # half a terabyte, within FAISS's own limit
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cut short"):
        load_index(path)


def test_loads_that_overlap_leave_the_limits_of_faiss_as_they_were(tmp_path, monkeypatch):
    """The limits are the process's: the second load to begin is the last to end, and must not restore the first's."""
    paths = [tmp_path / "first.faiss", tmp_path / "second.faiss"]
    for path, n in zip(paths, (5, 10), strict=True):
        save_index(build_index(*arrays(n, 2, 16)[:2]), path)
    read, limits = faiss.read_index, faiss.get_deserialization_vector_byte_limit
    before, seen, second_reads, first_is_done = limits(), {}, threading.Event(), threading.Event()

    def slow_read(file, *flags):
        first = not seen
        seen[len(seen)] = limits()
        if first:
            second_reads.wait(0.5)
        else:
            second_reads.set()
            first_is_done.wait(5)
        return read(file, *flags)

    monkeypatch.setattr(faiss, "read_index", slow_read)
    threads = [threading.Thread(target=load_index, args=[path]) for path in paths]
    threads[0].start()
    while not seen:
        time.sleep(0.001)
    threads[1].start()
    threads[0].join()
    first_is_done.set()
    threads[1].join()
    assert limits() == before and list(seen.values()) == [path.stat().st_size for path in paths]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.faiss"
    index = build_index(*arrays(100, 4, 16)[:2])
    save_index(index, path)
    before = path.read_bytes()

    def fail(index: faiss.Index, writer: faiss.IOWriter) -> None:
        raise RuntimeError("Error in somewhere: no index of this kind")

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(OSError, match="no index of this kind"):
        save_index(index, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.faiss"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
@pytest.mark.parametrize("n", [60, 5000], ids=["in the last write", "before it"])
def test_a_full_disk_is_one_line(n, tmp_path, capfd):
    import resource

    path = tmp_path / "index.faiss"
    index = build_index(*arrays(n, 8, 256)[:2])
    save_index(index, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 10, limits[1]))
        with pytest.raises(OSError, match=r"index\.faiss could not be written whole.*\(File too large\)$"):
            save_index(index, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.faiss"]
    assert capfd.readouterr() == ("", "")


def test_a_faiss_without_limits_reads_all_the_same(tmp_path, monkeypatch):
    """Before 1.14."""
    monkeypatch.delattr(faiss, "set_deserialization_vector_byte_limit", raising=False)
    codebooks, codes, _ = arrays(300, 4, 256)
    faiss.write_index(build_index(codebooks, codes), str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(read_codes(load_index(tmp_path / "index.faiss")), codes)
