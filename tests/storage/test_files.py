"""Files are written whole or not at all, and only one process is inside a lock."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mecoq_faiss.storage.files import (
    InUseError,
    check_writable_parent,
    locked,
    open_regular,
    read_small,
    replacing,
    sha256,
    write_text,
)

needs_no_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_the_target_appears_at_the_end_only(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old" and temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "a.txt"):
        pass


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        with replacing(tmp_path / "b.safetensors") as temporary:
            save_file({"a": torch.ones(2)}, temporary)  # makes files of mode 600
    finally:
        os.umask(old)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "b.safetensors")] == [mode, mode]


def test_the_content_is_synced_before_the_rename(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(("fsync", os.fstat(fd).st_size)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("replace", Path(b).name)), replace(a, b)))
    write_text(tmp_path / "a.txt", "12345")
    assert done == [("fsync", 5), ("replace", "a.txt")]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"x" * 300_000).hexdigest()


def test_check_writable_parent(tmp_path):
    check_writable_parent(tmp_path / "new" / "deeper" / "run")  # folders that can be made
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="choose another place for run"):
        check_writable_parent(tmp_path / "file" / "run")


@needs_no_root
def test_check_writable_parent_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write to"):
        check_writable_parent(tmp_path / "run")


def test_only_one_is_inside_the_lock(tmp_path):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


HOLDER = """
import sys, time
from mecoq_faiss.storage.files import locked
with locked(sys.argv[1]):
    print(flush=True)
    time.sleep(60)
"""


def test_a_killed_process_lets_go_of_the_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock"):
        pass


def test_the_second_is_told_whom_it_waits_for_or_who_is_there(tmp_path, caplog):
    lock = str(tmp_path / "lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        with pytest.raises(InUseError, match=f"is in use by process {holder.pid}"), locked(lock, wait=False):
            pass
        threading.Timer(0.3, holder.kill).start()
        with caplog.at_level(logging.INFO, "mecoq_faiss"), locked(lock):
            assert f"waiting for process {holder.pid}" in caplog.text
    finally:
        holder.kill()
        holder.wait()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(code):
        def acquire(self, **options):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("mecoq_faiss.storage.files.FileLock.acquire", acquire)

    refuse(errno.ENOLCK)
    with caplog.at_level(logging.WARNING, "mecoq_faiss"), locked(tmp_path / "lock"):
        assert "no locks on this file system: run one command at a time" in caplog.text
    refuse(errno.EACCES)
    with pytest.raises(PermissionError), locked(tmp_path / "lock"):
        pass


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def socket_at(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
    return path


def link_to(target: str) -> Callable[[Path], Path]:
    def link(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return link


NOT_REGULAR = {
    "fifo": fifo,
    "socket": socket_at,
    "device": link_to("/dev/zero"),
    "link": lambda p: link_to(str(fifo(p.with_name("pipe"))))(p),
}


@pytest.mark.parametrize("kind", NOT_REGULAR)
def test_only_regular_files_are_opened(kind, tmp_path):
    path = NOT_REGULAR[kind](tmp_path / "f\nile")
    for read in (open_regular, read_small, sha256):
        with pytest.raises(OSError, match="Not a regular file") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_regular_files_and_links_to_them_are_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"abc" and file.name == str(tmp_path / "b")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "c")


def test_a_small_file_is_not_read_beyond_its_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_small(tmp_path / "a", 3) == b"abc"
    with pytest.raises(ValueError, match="is larger than 2 bytes"):
        read_small(tmp_path / "a", 2)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match="is larger than 16,777,216 bytes"):
        read_small(tmp_path / "sparse")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link", "file"])
def test_something_else_with_the_name_of_a_lock_is_refused_and_kept(kind, tmp_path):
    (tmp_path / "mine").write_text("precious")
    path = {**NOT_REGULAR, "file": link_to("mine")}[kind](tmp_path / "lock")
    with pytest.raises(OSError, match="Not a regular file"), locked(path):
        pass
    assert (tmp_path / "mine").read_text() == "precious" and os.path.lexists(path)
