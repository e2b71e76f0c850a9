"""Tuning: what is measured against brute force, the frontier by hand, and the command that it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import faiss
import numpy as np
import pytest
from click.testing import CliRunner

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.index import build_index, read_ids
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.index.tuner import Point, Truth, frontier, sweep, winner
from mecoq_faiss.jobs.tune import tune
from mecoq_faiss_cli.main import main

N = 3000


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    assert faiss.omp_get_max_threads() == 1  # timing puts it back
    faiss.omp_set_num_threads(threads)


def clustered(nbits: int, n: int = N, nq: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codebooks, codes of vectors around 30 centres, and queries around the same."""
    rng = np.random.default_rng(nbits)
    M, K, d = 32 // nbits, 2**nbits, 4
    codebooks = rng.normal(size=(M, K, d)).astype(np.float32)
    codebooks /= np.linalg.norm(codebooks, axis=2, keepdims=True)
    centres = rng.normal(size=(30, M, d))
    x = centres[rng.integers(0, 30, n + nq)] + rng.normal(size=(n + nq, M, d))
    x = (x / np.linalg.norm(x, axis=2, keepdims=True)).astype(np.float32)
    codes = np.einsum("nmd,mkd->nmk", x[:n], codebooks).argmax(2).astype(np.uint8)
    return codebooks, codes, x[n:].reshape(nq, -1)


def point(recall: float, ms: float) -> Point:
    return Point("pq", None, None, None, recall, ms)


def test_frontier_and_winner_by_hand() -> None:
    points = [point(0.9, 2), point(1.0, 9), point(0.8, 3), point(0.95, 2), point(0.5, 1), point(1.0, 10)]
    assert frontier(points) == [point(0.5, 1), point(0.95, 2), point(1.0, 9)]
    assert winner(points, 0.93) == point(0.95, 2)
    assert winner(points, 1.0) == point(1.0, 9)
    assert winner(points[:1], 0.95) is None


@pytest.mark.parametrize("nbits", [8, 4])
def test_recall_counts_items_that_reach_the_kth_true_score(nbits: int) -> None:
    books, codes, xq = clustered(nbits)
    truth = Truth(books, codes, xq, 10)
    scores = xq @ decode_codes(books, codes).T
    kth = np.sort(scores, axis=1)[:, -10]
    np.testing.assert_allclose(truth.kth, kth, atol=1e-5)
    index = build_index(books, codes, "ivfpq", nlist=16, nprobe=1)
    I = index.search(xq, 10)[1]
    reached = [[i >= 0 and scores[q, i] >= kth[q] - 1e-5 for i in row] for q, row in enumerate(I)]
    assert truth.recall(index) == pytest.approx(np.mean(reached))
    assert 0.1 < truth.recall(index) < 1
    assert truth.recall(build_index(books, codes)) == 1


@pytest.mark.parametrize("nbits", [8, 4])
def test_the_sweep_takes_every_kind_of_the_codes_to_full_recall(nbits: int) -> None:
    books, codes, xq = clustered(nbits)
    truth = Truth(books, codes, xq, 5)
    truth.ms_per_query = float("inf")  # else a busy machine's timing would end the sweep early
    points = sweep(truth, nlists=[6, 16])
    flat, ivf = ("pq", "ivfpq") if nbits == 8 else ("pqfs", "ivfpqfs")
    assert {p.kind for p in points} == {flat, ivf}
    assert {p.nlist for p in points} == {None, 6, 16}
    assert all(p.ms_per_query > 0 for p in points)
    assert max(p.recall for p in points if p.kind == flat) == 1
    for nlist in (6, 16):
        curve = {p.nprobe: p.recall for p in points if p.nlist == nlist}  # the last of a nprobe: the most exact
        assert list(curve) == sorted(n for n in curve if n is not None) and curve[1] < max(curve.values()) == 1
    assert any(p.k_factor for p in points) == (nbits == 4)
    for p in points:  # what is reported is what such an index gives
        if p.k_factor is None and p.nlist == 6:
            again = build_index(books, codes, p.kind, nlist=6, nprobe=p.nprobe)
            assert truth.recall(again) == pytest.approx(p.recall)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of clustered features, with own ids; the queries are beside it."""
    folder = tmp_path_factory.mktemp("tune")
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(30, 24))[rng.integers(0, 30, N)] + 0.3 * rng.normal(size=(N, 24))).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "xq.npy", x[:40] + 0.1)
    settings = TrainConfig(epochs=2, batch_size=256)
    train(folder / "x.npy", folder / "run", ModelConfig(M=8, nbits=4, hidden=32), settings)
    export_index(folder / "run", folder / "x.npy", folder / "a bundle", kind="pqfs", ids=np.arange(N) + 7)
    return folder / "a bundle"


def test_the_printed_command_makes_the_winner(bundle: Path) -> None:
    arguments = ["tune", bundle, "--queries", bundle.parent / "xq.npy", "--recall", 0.9, "-k", 5, "--json"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    best = found["winner"]
    assert found["reached"] and best["recall"] >= 0.9 and best in found["frontier"]
    assert (found["queries"], found["items"], found["threads"]) == (40, N, 1)
    words = shlex.split(found["command"])
    assert words[0] == "mecoq-faiss"
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, result.output
    made = Path(words[words.index("--out") + 1])
    manifest = read_manifest(made)
    assert [manifest[name] for name in ("kind", "nlist", "nprobe", "refine")] == [
        best[name] for name in ("kind", "nlist", "nprobe", "k_factor")
    ]
    np.testing.assert_array_equal(read_ids(faiss.read_index(str(made / "index.faiss"))), np.arange(N) + 7)


def test_the_table_marks_the_winner(bundle: Path) -> None:
    arguments = ["tune", bundle, "--queries", bundle.parent / "xq.npy", "--recall", 1, "-k", 5]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "ms_per_query" in lines[1] and sum(line.startswith("> ") for line in lines) == 1
    assert lines[-1].startswith("mecoq-faiss export-index")


def test_bad_wishes_are_refused(bundle: Path, tmp_path: Path) -> None:
    queries = bundle.parent / "xq.npy"
    with pytest.raises(ValueError, match="recall=0"):
        tune(bundle, queries, 0)
    with pytest.raises(ValueError, match=f"1 to {N}"):
        tune(bundle, queries, k=N + 1)
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        tune(tmp_path, queries)
