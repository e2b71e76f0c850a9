"""What a worker says of a shard: its path, its warnings, its errors; without a Ray."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mecoq_faiss import encode
from mecoq_faiss.bundle import encoded
from mecoq_faiss.cluster import engine as on_ray
from mecoq_faiss.cluster import worker
from mecoq_faiss.cluster.encode import encode as encode_on_ray
from mecoq_faiss.cluster.engine import RayEngine
from mecoq_faiss.cluster.export_index import export_index as export_on_ray
from mecoq_faiss.cluster.worker import Job, Place, ShardWorker
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.storage import shards as shards_module
from mecoq_faiss.storage.files import sha256
from mecoq_faiss.storage.shards import Shards


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Images of which two cannot be read."""
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("003.png", "100.png"):
        (tmp_path / "photos" / name).write_bytes(b"broken")
    return tmp_path / "photos"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Two shards and two workers in this process, in the place of a Ray's; the jobs that they were given."""
    given: list[Job] = []

    def reports(_: Any, job: Job, missing: list[int], size: int, on_gpus: bool) -> Iterator[dict[str, Any]]:
        given.append(job)
        workers = [ShardWorker(job), ShardWorker(job)]
        for i in reversed(missing):
            yield json.loads(workers[i % 2]({"item": np.array([i])})["report"][0])

    monkeypatch.setattr(encoded, "SHARD_ROWS", 64)
    monkeypatch.setattr(on_ray, "_reports", reports)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4})
    monkeypatch.setattr(ray, "put", lambda x: x)
    monkeypatch.setattr(ray, "get", lambda x: x)
    yield given


def test_the_bytes_and_warnings_of_one_machine(
    digits_run: Path, folder: Path, tmp_path: Path, jobs: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    encode(digits_run, folder, tmp_path / "here.h5", workers=0)
    here = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    engine = RayEngine("local", folder)
    assert encode(digits_run, folder, tmp_path / "there.h5", engine=engine) == 128
    assert sha256(tmp_path / "there.h5") == sha256(tmp_path / "here.h5")
    told = [record.getMessage() for record in caplog.records if record.msg == "%s"]  # not by workers in this process
    assert sorted(told) == here[:2] and len(here) == 3 and here[2] in caplog.text


def test_a_worker_that_sees_other_images(
    digits_run: Path, folder: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = worker.open_source

    def without_the_first(data: Path, split: str) -> Any:
        (folder / "000.png").unlink(missing_ok=True)
        return seen(data, split)

    monkeypatch.setattr(worker, "open_source", without_the_first)
    monkeypatch.setattr(socket, "gethostname", lambda: f"node-{len(jobs)}")
    with pytest.raises(ValueError, match=r"photos is not the same on node-1 and node-0: .* \(on node-1\)") as raised:
        encode(digits_run, folder, tmp_path / "out.h5", engine=RayEngine("local", folder))
    assert "Traceback" in raised.value.__notes__[0] and not (tmp_path / "out.h5").exists()


def test_a_shard_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    shards = Shards(tmp_path, {"format": 1}, num_batches=3, per_shard=2)
    there = tmp_path / f"000001-{'0' * 64}.h5"
    there.touch()
    place = Place([], "cpu", str(tmp_path), "here")  # no model: it would fail
    writer = ShardWorker(Job(place, "no source", "database", None, shards, None))
    assert json.loads(writer({"item": np.array([1])})["report"][0])["result"] == [1, there.name]
    said = json.loads(writer({"item": np.array([0])})["report"][0])  # the folder is not that of a command at work
    assert said["error"] == "ValueError" and f"{tmp_path} is not seen" in said["text"]


def test_the_death_of_all_workers_is_one_line(
    digits_run: Path, folder: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dataset:
        def map_batches(self, *_: Any, **__: Any) -> Dataset:
            return self

        def iter_rows(self) -> Iterator[Any]:
            raise ray.exceptions.RaySystemError("It died.\n\tip: 192.0.2.2\nModuleNotFoundError: no mecoq_faiss\n\n")

    monkeypatch.undo()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4})
    monkeypatch.setattr(ray, "put", lambda x: x)
    monkeypatch.setattr(ray.data, "from_items", lambda *_, **__: Dataset())
    with pytest.raises(
        RuntimeError, match=r"have failed \(RaySystemError: ModuleNotFoundError: no mecoq_faiss\): see that all"
    ):
        encode(digits_run, folder, tmp_path / "out.h5", engine=RayEngine("local", folder))


def test_into_a_url_and_continued_there(
    digits_run: Path, folder: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(digits_run, folder, tmp_path / "here.h5", workers=0)
    url = f"file://{tmp_path}/there/out.h5"
    merge = shards_module._merge
    monkeypatch.setattr(shards_module, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_on_ray(digits_run, folder, url)
    shutil.rmtree(os.environ["MECOQ_FAISS_CACHE"])  # as if another machine went on
    monkeypatch.setattr(shards_module, "_merge", merge)
    monkeypatch.setattr(encoded.Encoding, "batches", lambda *_: pytest.fail("all shards are there"))
    assert encode_on_ray(digits_run, folder, url) == 128
    assert sha256(tmp_path / "there" / "out.h5") == sha256(tmp_path / "here.h5")
    assert os.listdir(tmp_path / "there") == ["out.h5"]
    with pytest.raises(FileExistsError, match=r"out\.h5 exists: choose another file"):
        encode_on_ray(digits_run, folder, url)
    with pytest.raises(OSError, match=r"nothing://bucket/out\.h5 cannot be written: Protocol not known"):
        encode_on_ray(digits_run, folder, "nothing://bucket/out.h5")


def test_what_cannot_be_done_with_ray(digits_run: Path, tmp_path: Path, jobs: list[Job]) -> None:
    for device in ("cuda:1", "tpu"):
        with pytest.raises(ValueError, match="give auto, cpu or cuda"):
            RayEngine("local", "digits", device=device)
    with pytest.raises(ValueError, match="the cluster has no GPU"):
        encode(digits_run, "digits", tmp_path / "out.h5", engine=RayEngine("local", "digits", device="cuda"))
    with pytest.raises(ValueError, match="bundle is a URL: give a folder"):
        export_on_ray(digits_run, "digits", "s3://bucket/bundle")
    with pytest.raises(ValueError, match="give the name of the source"):
        RayEngine("local", open_source("digits", "database"))  # type: ignore[arg-type]
