"""`tune`: the command that it prints makes the winner."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.index import read_ids
from mecoq_faiss.jobs import tune as tune_module
from tests.cli.calls import fails, ok

N = 3000


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
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
    queries = bundle.parent / "xq.npy"
    found = json.loads(ok("tune", bundle, "--queries", queries, "--recall", 0.9, "-k", 5, "--json"))
    best = found["winner"]
    assert found["reached"] and best["recall"] >= 0.9 and best in found["frontier"]
    assert (found["queries"], found["items"], found["threads"]) == (40, N, 1)
    words = shlex.split(found["command"])
    assert words[0] == "mecoq-faiss"
    ok(*words[1:])
    made = Path(words[words.index("--out") + 1])
    manifest = read_manifest(made)
    assert [manifest[name] for name in ("kind", "nlist", "nprobe", "refine")] == [
        best[name] for name in ("kind", "nlist", "nprobe", "k_factor")
    ]
    np.testing.assert_array_equal(read_ids(faiss.read_index(str(made / "index.faiss"))), np.arange(N) + 7)


def test_the_table_marks_the_winner(bundle: Path) -> None:
    lines = ok("tune", bundle, "--queries", bundle.parent / "xq.npy", "--recall", 1, "-k", 5).splitlines()
    assert "ms_per_query" in lines[1] and sum(line.startswith("> ") for line in lines) == 1
    assert lines[-1].startswith("mecoq-faiss export-index")


def test_ten_results_or_all_of_a_smaller_bundle(three_bundle: Path, three: Path) -> None:
    assert json.loads(ok("tune", three_bundle, "--queries", three, "--json"))["k"] == 3
    assert "k=10 is out of range" in fails("tune", three_bundle, "--queries", three, "-k", 10)


def test_where_nothing_reaches_the_recall_the_most_exact_is_marked(
    three_bundle: Path, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "winner", lambda points, recall: None)
    lines = ok("tune", three_bundle, "--queries", three).splitlines()
    assert lines[-2] == "nothing reached a recall of 0.95: this is the most exact"
    (marked,) = [line for line in lines if line.startswith("> ")]
    recalls = [float(line[2:].split()[4]) for line in lines[2:-2]]
    assert float(marked.split()[5]) == max(recalls)
