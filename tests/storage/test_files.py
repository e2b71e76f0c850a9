"""Files are written whole or not at all; progress with and without a terminal."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mecoq_faiss.runtime import progress as progress_module
from mecoq_faiss.runtime.progress import Estimate, duration, progress
from mecoq_faiss.storage.files import InUseError, check_writable_parent, locked, replacing, sha256, write_text

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


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_without_a_terminal_logs_now_and_then(monkeypatch, caplog):
    clock = iter(range(0, 1000, 7))  # every look at the clock is 7 s after the one before
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, "mecoq_faiss"):
        assert list(progress("abcdef", total=8, label="work", unit="letters", initial=2)) == list("abcdef")
    assert [record.message for record in caplog.records] == [
        "work: 5 of 8 letters, 21 s left",  # 3 done in 21 s, 3 to go
        "work: 8 of 8 letters, 0 s left",
    ]
    assert sys.stderr.getvalue() == ""


def test_progress_on_a_terminal_draws_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(3), total=3, label="work")) == [0, 1, 2]
    assert "work" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()


def test_progress_shows_a_note(monkeypatch, caplog):
    done = []

    def work():
        for loss in (3.5, 2.25):
            done.append(loss)
            yield loss

    monkeypatch.setattr(progress_module, "LOG_SECONDS", -1)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with caplog.at_level(logging.INFO, "mecoq_faiss"):
            assert list(progress(work(), total=2, label="work", note=lambda: f"loss {done[-1]}")) == [3.5, 2.25]
        if stream.isatty():
            assert re.search(r"2/2 .*loss 2\.25\]", stream.getvalue()) and not caplog.records
    assert [record.message.partition("; ")[2] for record in caplog.records] == ["loss 3.5", "loss 2.25"]


def test_an_estimate_is_said_once_when_the_rate_is_known(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    estimate = Estimate(1000, "cache: 1,000 views", "--views changes it")
    with caplog.at_level(logging.INFO, "mecoq_faiss"):
        for seconds in (60.0, 1.0, 1.0, 1.0, 1.0):  # the first batch is slow, and counts for nothing
            now[0] += seconds
            estimate.done(10)
    assert [record.message for record in caplog.records] == [
        "cache: 1,000 views, 10 a second: about 2 min to go; --views changes it"  # 970 left
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3570, "1 h 0 min"), (9960, "2 h 46 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_closes_what_it_iterates(monkeypatch):
    closed = []

    def items():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        shown = progress(items(), total=9, label="work")
        next(shown)
        shown.close()
        del shown
    assert closed == [True, True]
