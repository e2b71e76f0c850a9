"""`serve`: a process that answers and ends when told; its keys; what it refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.calls import fails, ok

httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")


def test_it_answers_until_it_is_told_to_end(bundle: Path, digit_image: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mecoq_faiss_cli.main", "serve", bundle, "--port", port, "--workers", 1]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert f"http://127.0.0.1:{port}/ serves" in process.stderr.readline()
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                except httpx.HTTPError:
                    assert process.poll() is None
                time.sleep(0.1)
            answer = httpx.post(f"{url}/search", files={"images": digit_image.read_bytes()}, data={"k": "3"})
            assert len(answer.json()["results"][0]["hits"]) == 3
            assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_keys_are_made_and_printed_once(bundle: Path, tmp_path: Path) -> None:
    key = ok("serve", bundle, "--api-keys", tmp_path / "keys", "--add-key", "ann", "--may-write").strip()
    assert len(key) > 40 and "ann write" in (tmp_path / "keys").read_text()
    assert "a key named 'ann'" in fails("serve", bundle, "--api-keys", tmp_path / "keys", "--add-key", "ann")


def test_what_it_refuses(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    for arguments, says in (
        ((tmp_path,), "bundle"),
        ((bundle, "--images", tmp_path / "none"), "is no folder"),
        ((bundle, "--rate", "often"), "60/minute"),
        ((bundle, "--api-keys", tmp_path / "keys"), "holds no key"),
        ((bundle, "--device", "cuda:99"), "cuda:99"),
    ):
        assert says in fails("serve", *arguments)
