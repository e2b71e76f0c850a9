"""The examples of the documentation run one after the other in one folder, and print what FAISS says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from mecoq_faiss import load_encoder
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.index import read_codes

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
MOST_LINES = 30

Hits = tuple[list[float], list[int], list[str]]  # scores, ids, paths


def run(name: str, folder: Path) -> list[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first example has trained and exported."""
    folder = tmp_path_factory.mktemp("examples")
    printed = run("train_and_export.py", folder)
    assert printed[:2] == ["items: 1500", "bytes a code: 4.0"]
    assert float(printed[2].split()[-1]) < 1e-4
    return folder


@pytest.fixture(scope="module")
def query(home: Path) -> np.ndarray:
    return load_encoder(home / "bundle").encode(open_source("digits", "queries").open(0))  # type: ignore[union-attr]


def hits(lines: list[str]) -> Hits:
    scores, ids, paths = zip(*(line.split() for line in lines), strict=True)
    return [float(score) for score in scores], [int(i) for i in ids], list(paths)


def best(index: faiss.Index, query: np.ndarray) -> np.ndarray:
    """The five best scores by decoding every code: an independent truth, whatever the order of equal ones."""
    core = faiss.downcast_index(index)
    return np.sort(query[0] @ core.reconstruct_n(0, core.ntotal).T)[::-1][:5]


@pytest.fixture(scope="module")
def plain(home: Path) -> Hits:
    return hits(run("search_plain_faiss.py", home))


def test_search_plain_faiss(home: Path, query: np.ndarray, plain: Hits) -> None:
    scores, rows, paths = plain
    np.testing.assert_allclose(scores, best(faiss.read_index(str(home / "bundle" / "index.faiss")), query), atol=1e-3)
    assert paths == [open_source("digits", "database").paths[row] for row in rows]


def test_own_ids(home: Path, plain: Hits) -> None:
    own = hits(run("own_ids.py", home))
    assert own[0] == plain[0] and own[2] == plain[2]
    assert own[1] == [1_000_000 + 10 * row for row in plain[1]]


def test_add_images(home: Path, query: np.ndarray) -> None:
    printed = run("add_images.py", home)
    assert printed[0] == "1500 items, now 1797"
    grown = faiss.read_index(str(home / "grown.faiss"))
    scores, rows, paths = hits(printed[1:])
    np.testing.assert_allclose(scores, best(grown, query), atol=1e-3)
    queries = open_source("digits", "queries")
    names = [*open_source("digits", "database").paths, *queries.paths]
    assert paths == [names[row] for row in rows]
    encoder = load_encoder(home / "bundle")
    z = encoder.encode([queries.open(i) for i in range(len(queries))])  # type: ignore[union-attr]
    np.testing.assert_array_equal(read_codes(grown)[1500:], encoder.codes(z))


def test_examples_are_short() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 4
    for script in scripts:
        assert len(script.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, script
