"""Progress with and without a terminal, and estimates that are said once."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from mecoq_faiss.runtime import progress as progress_module
from mecoq_faiss.runtime.progress import Estimate, duration, progress


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
