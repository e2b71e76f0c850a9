"""Encoding and building on a Ray of two nodes: the bytes of one machine, whoever is killed or began it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss import encode, export_index
from mecoq_faiss.cluster.export_index import export_index as export_on
from mecoq_faiss.storage import shards
from mecoq_faiss.storage.files import sha256
from tests.cluster.nodes import SHARD_ROWS, attempts, encode_on, small_shards, start

COUNT = -(-1500 // SHARD_ROWS)  # shards of the digits' database


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster = start(2, cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def codes(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that one machine makes."""
    out = tmp_path_factory.mktemp("expected") / "out.h5"
    with small_shards():
        encode(digits_run, "digits", out)
    return out


@pytest.fixture(scope="module")
def expected(codes: Path) -> str:
    """Its SHA-256."""
    return sha256(codes)


def kill_one_at_work(folder: Path) -> None:
    """Kill the process that has begun the fifth shard."""
    for _ in range(1200):
        if len(begun := attempts(folder)) >= 5:
            os.kill(begun[4][1], signal.SIGKILL)
            return
        time.sleep(0.02)


def test_begun_without_ray_finished_with_it_and_a_worker_killed(
    cluster: Any, digits_run: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shards.Shards.write

    def stops(self: shards.Shards, i: int, batches: Any) -> Path:
        if i == 3:
            raise KeyboardInterrupt
        return write(self, i, batches)

    with small_shards():
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(shards.Shards, "write", stops)
            encode(digits_run, "digits", tmp_path / "out.h5")
        killing = threading.Thread(target=kill_one_at_work, args=(tmp_path,))
        killing.start()
        assert encode_on(cluster, digits_run, tmp_path / "out.h5") == 1500
        killing.join()
    assert sha256(tmp_path / "out.h5") == expected
    begun = attempts(tmp_path)
    assert {i for i, _ in begun} == set(range(3, COUNT)) and len(begun) <= COUNT - 3 + 1
    assert len({pid for _, pid in begun}) >= 2, "one on each node"
    assert sorted(os.listdir(tmp_path)) == ["attempts", "out.h5"]


def test_stopped_with_ray_and_finished_without(
    cluster: Any, digits_run: Path, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt() -> None:
        while len(attempts(tmp_path)) < 8:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with small_shards(), caplog.at_level(logging.INFO, "mecoq_faiss"):
        with pytest.raises(KeyboardInterrupt):
            encode_on(cluster, digits_run, tmp_path / "out.h5")
        assert f"of {COUNT} shards are in {tmp_path / 'out.h5.parts'}: the same command continues" in caplog.text
        there = len(list((tmp_path / "out.h5.parts").glob("*-*.h5")))
        assert there >= 4 and not (tmp_path / "out.h5").exists()
        encode(digits_run, "digits", tmp_path / "out.h5")
    assert sha256(tmp_path / "out.h5") == expected


def test_shards_are_built_as_on_one_machine(cluster: Any, digits_run: Path, codes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"codes": codes, "kind": "ivfpq", "nlist": 8, "shards": 3}
    here = export_index(digits_run, None, tmp_path / "here", **options)
    there = export_on(digits_run, None, tmp_path / "there", ray=cluster.address, **options)
    own = {"created", "shards", "verification"}
    assert {name: value for name, value in here.items() if name not in own} == {
        name: value for name, value in there.items() if name not in own
    }
    for shard in here["shards"]:
        for name in ("index.faiss", "items.h5", "encoder/config.json", "encoder/model.safetensors"):
            paths = (tmp_path / place / shard["folder"] / name for place in ("here", "there"))
            assert len({sha256(path) for path in paths}) == 1, name
    names = [
        sorted(path.relative_to(place) for path in place.rglob("*"))
        for place in (tmp_path / "here", tmp_path / "there")
    ]
    assert names[0] == names[1]
