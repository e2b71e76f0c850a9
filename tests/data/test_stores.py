"""Where images lie: folders, tars and memory, read alike, also by workers."""

from __future__ import annotations

import gc
import os
import pickle
import re
import subprocess
import tarfile
import tempfile

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss.data import stores
from mecoq_faiss.data.sources import UnreadableImage, open_source
from mecoq_faiss.data.stores import ArrayStore, TarStore, scan_folder
from tests.data.files import PATHS, encoded, make, noise, pack, refused, write_image


def test_linked_folders_are_followed_once(folder):
    (folder / "cat" / "loop").symlink_to(folder)
    elsewhere = folder.with_name("elsewhere")
    write_image(elsewhere / "e.png")
    (folder / "fish").symlink_to(elsewhere)
    assert open_source(folder, "train").paths == (*PATHS, "fish/e.png")


def test_unpacked_copy_is_removed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    source = open_source(pack(folder, ".tar.xz"), "train")
    source.open(0)
    part = source.subset([1])
    del source
    gc.collect()
    assert len(os.listdir(tmp_path / "tmp")) == 1 and part.open(0).size == (5, 4)
    del part
    gc.collect()
    assert os.listdir(tmp_path / "tmp") == []
    broken = pack(folder, ".tar.gz")
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable tar"):
        open_source(broken, "train")
    gc.collect()
    assert os.listdir(tmp_path / "tmp") == []


def test_a_later_entry_of_a_tar_replaces_the_earlier(folder):
    path = pack(folder, ".tar")
    write_image(folder / "dog" / "b.png", seed=9)
    with tarfile.open(path, "a") as tar:
        tar.add(folder / "dog" / "b.png", arcname="dog/b.png")
    source = open_source(path, "train")
    assert source.paths == PATHS
    np.testing.assert_array_equal(np.asarray(source.open(3)), noise(4, 5, seed=9))


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.xz"])
def test_workers_and_this_process_read_the_same(folder, ending):
    data = pytest.importorskip("torch.utils.data")
    source = open_source(pack(folder, ending) if ending else folder, "train")

    def total(i):
        return int(np.asarray(source.open(i)).sum())

    expected = [total(i) for i in range(4)]  # opens the tar before the fork

    class Sums(data.Dataset):
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            return total(i)

    loader = data.DataLoader(Sums(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert [int(value) for value in loader] == expected
    assert [total(i) for i in range(4)] == expected


def test_damaged_images_are_named(folder):
    (folder / "dog" / "b.png").write_bytes((folder / "dog" / "b.png").read_bytes()[:40])
    for path in (folder, pack(folder, ".tar")):
        source = open_source(path, "train")
        source.open(0)
        with pytest.raises(UnreadableImage, match=r"photos.*dog/b\.png: "):
            source.open(3)
    os.remove(path)
    with pytest.raises(UnreadableImage, match=r"photos\.tar:bird/x y é\.png: No such file"):
        open_source_after_removal = pickle.loads(pickle.dumps(source))
        open_source_after_removal.open(0)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz"])
def test_truncated_tar(folder, ending):
    whole = (path := pack(folder, ending)).read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    # Cut in the data, in a header, between two members; or at half where compressed
    cuts = [members[-1].offset_data + 5, members[-1].offset + 5, members[-1].offset]
    for cut in cuts if ending == ".tar" else [len(whole) // 2]:
        assert "not a readable tar" in refused(make(path, whole[:cut]))


def test_damaged_gzip(folder):
    data = bytearray((path := pack(folder, ".tar.gz")).read_bytes())
    data[-8] ^= 1  # of the checksum
    message = refused(make(path, bytes(data)))
    assert "not a readable tar" in message and "TMPDIR" not in message


def test_damaged_tar(folder):
    path = pack(folder, ".tar")
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[-1].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"?" * 20
    assert f"damaged or cut off at byte {offset}" in refused(make(path, bytes(data)))


def test_no_room_to_unpack(folder, monkeypatch):
    def full(self, source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.TarStore, "_copy", full)
    assert "No space left on device" in refused(pack(folder, ".tar.gz"), OSError)
    assert "set TMPDIR" in refused(pack(folder, ".tar.gz"), OSError)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz"])
def test_a_tar_that_would_fill_the_disk_is_refused(ending, folder, tmp_path, monkeypatch):
    (folder / "dog" / "bomb.png").write_bytes(bytes(5_000_000))
    path = pack(folder, ending)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    assert len(open_source(path, "train")) == 5  # below a gigabyte any ratio will do
    monkeypatch.setattr(stores, "UNPACKED", 1_000_000)
    ratio = r"not a readable tar \(more than [\d,]+ bytes when unpacked \(MECOQ_FAISS_MAX_UNPACKED\)\)"
    assert re.search(ratio, refused(path)) and not list(unpacked.iterdir())
    monkeypatch.setenv("MECOQ_FAISS_MAX_UNPACKED", "6000000")
    assert len(open_source(path, "train")) == 5


def test_names_are_sorted_and_hidden_files_left_out(folder):
    assert scan_folder(folder).names == TarStore(pack(folder, ".tar")).names == PATHS


def test_images_in_memory():
    pixels = np.stack([noise(4, 5, seed=i) for i in range(3)])
    store = ArrayStore(("a", "b", "c"), pixels)
    gray = ArrayStore(("a", "b", "c"), pixels[..., 0])
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(store.decode(i)), pixels[i])
        np.testing.assert_array_equal(np.asarray(gray.decode(i)), np.stack([pixels[i, ..., 0]] * 3, axis=2))
    assert store.stamp(1) == pixels[1].tobytes() and len({store.stamp(i) for i in range(3)}) == 3


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_stamp_changes_with_its_image_only(folder, change):
    store = scan_folder(folder)
    before = [store.stamp(i) for i in range(4)]
    path = folder / PATHS[2]
    stat = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, (1, 1))
    assert [store.stamp(i) == before[i] for i in range(4)] == [True, True, False, True]


def test_stamps_of_a_tar_are_those_of_its_content(folder):
    first, again = (TarStore(pack(folder, ".tar.gz")) for _ in range(2))
    assert len({first.stamp(i) for i in range(4)}) == 4
    os.utime(again.path, (1, 1))
    assert {TarStore(again.path).stamp(i) for i in range(4)}.isdisjoint(first.stamp(i) for i in range(4))


@pytest.fixture
def deep(tmp_path):
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil.rmtree goes down by recursion


def test_1500_nested_folders(deep):
    place, handle = [], os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
        place.append("d")
    data = encoded(Image.fromarray(noise(4, 5)), "PNG")
    with open("a.png", "wb", opener=lambda name, flags: os.open(name, flags, dir_fd=handle)) as file:
        file.write(data)
    os.close(handle)
    store = scan_folder(deep)
    assert store.names == ("/".join([*place, "a.png"]),)
    np.testing.assert_array_equal(np.asarray(store.decode(0)), noise(4, 5))


def test_a_folder_of_100000_images(tmp_path):
    names = [f"{i:06}.png" for i in range(100_000)]
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
    source = open_source(tmp_path, "train")
    assert list(source.paths) == names and len(source.subset([99_999]).fingerprint) == 64


def test_names_of_every_kind(tmp_path):
    names = ["a\nb.png", "\udcff\udcfe.png", "x" * 251 + ".png", "é.png", "-rf.png", "$(x).png", "a\\b.png", " .png"]
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)
    store = scan_folder(tmp_path)
    assert store.names == tuple(sorted(names))
    for i, name in enumerate(store.names):
        np.testing.assert_array_equal(np.asarray(store.decode(i)), noise(4, 5, seed=names.index(name)))


def test_a_pipe_among_images_is_unreadable_and_the_rest_is_read(folder):
    os.mkfifo(folder / "dog" / "c.png")
    source = open_source(folder, "train")
    assert source.paths == (*PATHS, "dog/c.png") and len(source.fingerprint) == 64
    with pytest.raises(UnreadableImage, match=r"dog/c\.png: Not a regular file"):
        source.open(4)
    assert source.open(3).size == (5, 4)


def member(name: str, data: bytes = b"", size: int | None = None, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One member of a tar whose header may lie about its size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(record: str, size: int | None = None) -> bytes:
    length = len(record) + 4
    data = f"{length + len(str(length)) - 2} {record}\n".encode()
    return member("pax", data, size, tarfile.XHDTYPE)


END = bytes(1024)


@pytest.mark.parametrize(
    "content",
    [
        member("a.png", b"x", size=10**12) + END,
        member("a.png", b"x", size=-512) + END,
        member("a.png", b"x", size=2**62) + END,
        member("dir", b"", size=10**15, kind=tarfile.XHDTYPE) + END,
        member("dir", b"", size=10**15, kind=tarfile.GNUTYPE_LONGNAME) + END,
        member("dir", b"", size=-1024, kind=tarfile.GNUTYPE_LONGNAME) + END,
        member("dir", b"", size=2 << 20, kind=tarfile.XGLTYPE) + bytes(3 << 20),
        pax("size=-99999") + member("a.png", b"x") + END,
        pax("size=" + "9" * 30) + member("a.png", b"x") + END,
        pax("GNU.sparse.map=1,x,2") + member("a.png", b"x") + END,
        b"".join(pax(f"path=a{i}.png") for i in range(3000)) + member("a.png", b"x") + END,
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_tar_headers_that_lie(content, tmp_path):
    assert "not a readable tar" in refused(make(tmp_path / "a.tar", content))


@pytest.mark.parametrize("mtime", ["inf", "nan", "-inf", "1e300"])
def test_times_of_a_tar_without_bounds(mtime, tmp_path):
    data = encoded(Image.fromarray(noise(4, 5)), "PNG")
    source = open_source(make(tmp_path / "a.tar", pax(f"mtime={mtime}") + member("a.png", data) + END), "train")
    np.testing.assert_array_equal(np.asarray(source.open(0)), noise(4, 5))


def test_a_sparse_member_is_named_and_not_allocated(tmp_path):
    data = encoded(Image.fromarray(noise(4, 5)), "PNG")
    header = bytearray(member("sparse.png", size=512, kind=tarfile.GNUTYPE_SPARSE))
    for place, number in ((386, 0), (398, 512), (483, 8**11 - 1)):  # one piece of 512 bytes at 0; its size, 8.6 GB
        header[place : place + 12] = b"%011o\0" % number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    source = open_source(make(tmp_path / "a.tar", bytes(header) + bytes(512) + member("b.png", data) + END), "train")
    assert source.paths == ("b.png", "sparse.png")
    with pytest.raises(UnreadableImage, match=r"sparse\.png: stored as a sparse file; write the tar without --sparse"):
        source.open(1)
    np.testing.assert_array_equal(np.asarray(source.open(0)), noise(4, 5))


def test_a_large_member_is_not_read(folder, monkeypatch):
    source = open_source(pack(folder, ".tar"), "train")
    monkeypatch.setenv("MECOQ_FAISS_MAX_BYTES", "50")
    with pytest.raises(UnreadableImage, match=r"dog/b\.png: \d+ bytes, more than 50"):
        source.open(3)
