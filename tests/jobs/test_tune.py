"""Tuning: the command that it prints makes the winner; wishes that cannot be met are refused."""

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
from mecoq_faiss.index import read_ids
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
