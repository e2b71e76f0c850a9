"""Shards searched by replicas on a Ray: the answers of one process, also while replicas are killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, export_index, open_bundle, train
from mecoq_faiss.bundle.opened import Bundle

pytest.importorskip("ray", reason="the extra `cluster` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient

from mecoq_faiss.cluster.serve import shard_replicas
from mecoq_faiss.index.part import PartLost
from mecoq_faiss.service.app import create_app
from mecoq_faiss.service.settings import Settings

N, FEW = 90, 12
Opener = Callable[..., Bundle]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`x.npy` of rows some of which are alike, with a table beside it; bundles of it: `one`, and `three` in shards."""
    folder = tmp_path_factory.mktemp("serve")
    x = np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)
    x[N // 2 :] = x[: N - N // 2]  # equal scores in different shards
    np.save(folder / "x.npy", x)
    rows = [f"x.npy#{i},{'ab'[i % 2]},{2000 + i}" for i in range(N)]
    (folder / "x.csv").write_text("\n".join(["path,label,year", *rows]) + "\n")
    model = ModelConfig(backbone="features", weights="none", feature_dim=8, hidden=16, D=16, M=4, nbits=4)
    config = TrainConfig(epochs=1, batch_size=30, workers=0, preserve_weight=0.0)
    train(folder / "x.npy", folder / "run", model, config)
    export_index(folder / "run", folder / "x.npy", folder / "one", kind="ivfpq", nlist=4, nprobe=2)
    export_index(folder / "run", folder / "x.npy", folder / "three", kind="ivfpq", nlist=4, nprobe=2, shards=3)
    return folder


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    with shard_replicas("local", replicas=2, patience=20) as opener:
        yield opener


@pytest.fixture(scope="module")
def remote(opener: Opener, folder: Path) -> Iterator[Bundle]:
    bundle = opener(folder / "three")
    yield bundle
    bundle.close()


def replicas_of(folder: Path) -> list[int]:
    """The ids of the processes that answer for a shard's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ray::ServeReplica:") and f":{folder.name}" in title:
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("where", [None, "year < 2050 and id <> 7", "label = 'a'", "year < 1900"])
def test_replicas_answer_as_one_process_does(remote: Bundle, folder: Path, where: str | None) -> None:
    xq = np.load(folder / "x.npy")[:FEW]
    with open_bundle(folder / "one") as one:
        for k in (1, 7, N):
            assert remote.search(xq, k, where=where) == one.search(xq, k, where=where), k
        assert remote.search(xq, 3, where=[5, 50, 999]) == one.search(xq, 3, where=[5, 50, 999])


def test_items_are_told_as_by_one_process(remote: Bundle, folder: Path) -> None:
    rows = np.array([80, 3, 31, 30, 29])
    with open_bundle(folder / "one") as one, remote.in_use() as there, one.in_use() as here:
        assert there.paths(rows) == here.paths(rows) and there.labels(rows) == here.labels(rows)
        np.testing.assert_array_equal(there.codes(rows), here.codes(rows))
        np.testing.assert_array_equal(there.queries_like(rows), here.queries_like(rows))
        assert there.metadata([3, 80]) == here.metadata([3, 80]) and there.row_of(80) == 80
        assert there.columns == here.columns
        with pytest.raises(KeyError):
            there.row_of(N)


def test_a_killed_replica_loses_no_search(remote: Bundle, folder: Path) -> None:
    xq = np.load(folder / "x.npy")[:FEW]
    expected = remote.search(xq, 5)
    victim = replicas_of(Path("shard-000001"))[0]

    os.kill(victim, signal.SIGKILL)

    for _ in range(5):
        assert remote.search(xq, 5) == expected


def test_without_a_shard_a_partial_answer_is_given_only_where_it_is_asked_for(folder: Path) -> None:
    with shard_replicas("auto", replicas=1, patience=0.3) as opener, opener(folder / "three") as remote:
        xq = np.load(folder / "x.npy")[:FEW]
        expected = remote.search(xq, 5)
        with remote.in_use() as generation:
            vectors, missing = generation.encoder.encode(xq), set[int]()
            alone = [pid for pid in replicas_of(Path("shard-000002")) if pid not in KNOWN]
            os.kill(alone[0], signal.SIGKILL)

            with pytest.raises(PartLost, match="shard-000002 does not answer"):
                generation.search_vectors(vectors, 5, None)
            hits = generation.search_vectors(vectors, 5, None, missing)

        assert missing == {2} and all(hit.row < 60 for of_query in hits for hit in of_query)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                assert remote.search(xq, 5) == expected
                return
            except PartLost:
                time.sleep(0.2)
        pytest.fail("the replica was not started again")


KNOWN: set[int] = set()


@pytest.fixture(autouse=True)
def known_replicas() -> None:
    KNOWN.update(replicas_of(Path("shard-000002")))


def test_http_is_that_of_the_single_service_and_a_new_export_is_taken_up(
    opener: Opener, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "three", tmp_path / "bundle")
    settings = Settings((tmp_path / "bundle",), workers=1, watch=3600)
    query: dict[str, Any] = {"vectors": np.load(folder / "x.npy")[:1].tolist(), "k": 3, "partial": True}
    with TestClient(create_app(settings, opener), base_url="http://127.0.0.1") as client:
        first = client.post("/search", json=query)
        assert first.status_code == 200, first.text
        assert first.json()["missing_shards"] == 0 and len(first.json()["results"][0]["hits"]) == 3

        export_index(folder / "run", folder / "x.npy", tmp_path / "new", shards=3)
        os.rename(tmp_path / "bundle", tmp_path / "old")
        os.rename(tmp_path / "new", tmp_path / "bundle")
        for pid in replicas_of(Path("shard-000000")):  # those that start again can open the new export alone
            if pid not in KNOWN:
                os.kill(pid, signal.SIGKILL)
        second = client.post("/search", json=query)

    assert second.status_code == 200, second.text
    assert second.json()["generation"] != first.json()["generation"]
    assert second.json()["missing_shards"] == 0
