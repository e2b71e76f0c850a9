"""Searching a bundle: one generation an answer, while the folder is replaced again and again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, encode, export_index, load_encoder, train
from mecoq_faiss.index import load_index
from mecoq_faiss.jobs.search import search
from mecoq_faiss.storage.shards import map_array

N = 60


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old` and `new`: the same pictures in another order and under other names."""
    from PIL import Image

    work = tmp_path_factory.mktemp("bundles")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(N)]
    for name, order in (("old", range(N)), ("new", reversed(range(N)))):
        (work / f"{name}-images").mkdir()
        for place, number in enumerate(order):
            pictures[number].save(work / f"{name}-images" / f"{place:02}-{name}-{number:02}.png")
    config = TrainConfig(epochs=1, batch_size=30, cached_views=2, workers=0)
    train(work / "old-images", work / "run", ModelConfig(backbone="pixels", image_size=8, M=4, D=16), config)
    for name in ("old", "new"):
        export_index(work / "run", work / f"{name}-images", work / name, workers=0)
    return work


SWAP = """
import os, sys, time
shown, spare = sys.argv[1:]
until = time.monotonic() + 60
while time.monotonic() < until:
    os.rename(shown, shown + ".moved")
    os.rename(spare, shown)
    os.rename(shown + ".moved", spare)
    time.sleep(0.02)
"""
LINK = """
import os, sys, time
shown, *targets = sys.argv[1:]
until = time.monotonic() + 60
while time.monotonic() < until:
    for target in targets:
        os.symlink(target, shown + ".link")
        os.replace(shown + ".link", shown)
        time.sleep(0.02)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="open folders cannot be renamed there")
@pytest.mark.parametrize("how", ["renamed", "linked"])
def test_a_replaced_bundle_gives_answers_of_one_generation(bundles: Path, tmp_path: Path, how: str) -> None:
    for name in ("old", "new"):
        subprocess.run(["cp", "-r", bundles / name, tmp_path / name], check=True)
    shown = tmp_path / "shown"
    if how == "renamed":
        (tmp_path / "old").rename(shown)
        arguments = [SWAP, str(shown), str(tmp_path / "new")]
    else:
        shown.symlink_to(tmp_path / "old")
        arguments = [LINK, str(shown), str(tmp_path / "new"), str(tmp_path / "old")]
    queries = [bundles / "old-images" / f"{i:02}-old-{i:02}.png" for i in range(5)]
    expected = {
        name: [[hit.path for hit in hits] for hits in search(bundles / name, queries, 5)] for name in ("old", "new")
    }
    assert expected["old"] != expected["new"]
    swapper = subprocess.Popen([sys.executable, "-c", *arguments])
    answers = []
    try:
        for _ in range(60):
            try:
                answers.append([[hit.path for hit in hits] for hits in search(shown, queries, 5)])
            except FileNotFoundError:
                assert how == "renamed"  # the moment between the two renames
    finally:
        swapper.kill()
        swapper.wait()
    assert len(answers) > 30 and all(answer in expected.values() for answer in answers)
    assert {name for name in expected if expected[name] in answers} == {"old", "new"}


def test_overlapping_loads_leave_the_processes_limits_as_they_were(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    read, inside = faiss.read_index, threading.Barrier(2)

    def slow(path: str, flags: int) -> faiss.Index:
        with contextlib.suppress(threading.BrokenBarrierError):
            inside.wait(0.5)  # until the other one is here as well
        return read(path, flags)

    monkeypatch.setattr(faiss, "read_index", slow)
    threads = [threading.Thread(target=load_index, args=(bundles / name / "index.faiss",)) for name in ("old", "new")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == usual


def test_images_are_added_as_the_readme_says(bundles: Path, tmp_path: Path) -> None:
    export_index(bundles / "run", bundles / "old-images", tmp_path / "own", ids=np.arange(N) + 1000, workers=0)
    new = bundles / "old-images" / "00-old-00.png"
    for bundle, ids in ((bundles / "old", None), (tmp_path / "own", np.array([7]))):
        encoder = load_encoder(bundle)
        index = faiss.read_index(str(bundle / "index.faiss"))
        if ids is None:
            index.add(encoder.encode([new]))
        else:
            index.add_with_ids(encoder.encode([new]), ids)
        D, I = index.search(encoder.encode([new]), 2)
        assert index.ntotal == N + 1 and D[0, 0] == D[0, 1]
        assert set(I[0].tolist()) == ({0, N} if ids is None else {1000, 7})


def test_an_added_to_index_in_the_bundle_is_refused_with_its_mend(bundles: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", bundles / "old", tmp_path / "bundle"], check=True)
    index = faiss.read_index(str(tmp_path / "bundle" / "index.faiss"))
    index.add(np.ones((1, 16), np.float32))
    faiss.write_index(index, str(tmp_path / "bundle" / "index.faiss"))
    with pytest.raises(ValueError, match=r"index\.faiss differs from the manifest"):
        search(tmp_path / "bundle", [bundles / "old-images" / "00-old-00.png"], 3)
    encode(tmp_path / "bundle", bundles / "old-images", tmp_path / "codes.h5", workers=0)  # the encoder is whole
    assert len(map_array(tmp_path / "codes.h5", "codes")) == N and os.path.exists(tmp_path / "bundle")
