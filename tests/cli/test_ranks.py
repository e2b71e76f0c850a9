"""The command `train` on several ranks, as torchrun starts them: one speaks, and a killed one ends the job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mecoq_faiss import train
from mecoq_faiss.training.run_folder import RunFolder

SMALL = ["--dim", "8", "--bits", "16", "--batch-size", "8", "--device", "cpu", "--set", "hidden=16"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals there")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "views.npy", np.random.default_rng(0).normal(size=(30, 2, 6)).astype(np.float32))
    return tmp_path / "views.npy"


def start(data: Path, out: str, *options: str, size: int = 2) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    command = [sys.executable, "-m", "mecoq_faiss_cli.main", "train", "--data", str(data)]
    command += ["--out", str(data.parent / out)]
    return [
        subprocess.Popen(
            [*command, *SMALL, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {name: str(value) for name, value in place.items()} | {"RANK": str(rank)},
        )
        for rank in range(size)
    ]  # fmt: skip


def said(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, list[str]]]:
    """Exit code and lines of each."""
    found = []
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        found.append((rank.returncode, [line for line in (out + err).splitlines() if line]))
    return found


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_job_with_one_line_and_the_run_goes_on(killed: int, data: Path) -> None:
    ranks, run = start(data, "run", "--epochs", "60"), RunFolder(data.parent / "run")
    metrics = run.metrics_file
    while not (metrics.exists() and metrics.stat().st_size):
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)
    ranks[killed].send_signal(signal.SIGKILL)
    code, lines = said(ranks)[1 - killed]
    assert code == 1
    if killed == 1:
        assert lines[-1].startswith("Error: another rank has ended: run the same command with --resume to continue")
        assert sum("Error" in line for line in lines) == 1
    else:
        assert lines == []
    assert run.next_epoch() <= 60
    whole = train(data, data.parent / "whole", *run.read_config(), device="cpu")
    resumed = train(data, run.path, resume=True, device="cpu")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-4)


def test_the_first_rank_alone_says_what_is_wrong(data: Path) -> None:
    (data.parent / "run").mkdir()
    (data.parent / "run" / "mine").touch()
    (code, lines), (other_code, nothing) = said(start(data, "run"))
    assert (code, other_code, nothing) == (1, 1, [])
    assert len(lines) == 1 and lines[0].startswith("Error: ") and "exists: choose another --out" in lines[0]
