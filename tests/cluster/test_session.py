"""Which Ray is used, and what is said where there is none."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import ray

from mecoq_faiss.cluster.session import connected, import_ray
from tests.cli.calls import fails


def test_without_ray_it_says_how_to_get_it(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = fails("encode", digits_run, "--data", "digits", "--out", tmp_path / "out.h5", "--ray", "local")
    assert "pip install 'mecoq-faiss[cluster]'" in message
    with pytest.raises(ImportError, match="--ray needs Ray"):
        import_ray()


def test_no_cluster_there(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    def refuses(address: str, **_: object) -> None:
        os.write(2, b"from C++")
        raise ConnectionError("Could not find any\nrunning Ray instance.")

    monkeypatch.setattr(ray, "init", refuses)
    with (
        pytest.raises(
            ConnectionError, match=r"no Ray at auto \(Could not find any running Ray instance\.\): start one"
        ),
        connected("auto"),
    ):
        pytest.fail("there is none")
    print("heard again", file=sys.stderr)
    assert "C++" not in (said := capfd.readouterr().err) and "heard again" in said


def test_a_cluster_that_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(address: str, **_: object) -> None:
        try:
            raise ray.exceptions.AuthenticationError("InvalidAuthToken")
        except ray.exceptions.AuthenticationError as error:
            raise ConnectionError("Failed to connect") from error

    monkeypatch.setattr(ray, "init", refuses)
    with pytest.raises(ConnectionError, match=r"\(Failed to connect\): set RAY_AUTH_MODE=token"), connected("auto"):
        pytest.fail("there is none")


def test_a_ray_that_is_there_is_used_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for name in ("init", "shutdown"):
        monkeypatch.setattr(ray, name, lambda *_, **__: pytest.fail("it is not ours"))
    with connected("local") as found:
        assert found is ray


def test_nobody_answers_at_the_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = "{}:{}".format(*closed.getsockname())
        with pytest.raises(ConnectionError, match=f"no Ray at {address} .*refused"), connected(address):
            pytest.fail("there is none")


def test_sigterm_ends_the_work_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(SystemExit, match="143"), connected("auto"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended and signal.getsignal(signal.SIGTERM) is before
