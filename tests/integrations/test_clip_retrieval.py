"""A bundle in clip-retrieval's layout: its files, and what clip-retrieval and autofaiss read of them."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import faiss
import numpy as np
import pytest

from mecoq_faiss import Bundle, export_index, open_bundle, remove
from mecoq_faiss.integrations.clip_retrieval import to_clip_retrieval
from tests.cli.calls import fails, ok

has_clients = all(map(importlib.util.find_spec, ("clip_retrieval", "autofaiss")))
needs_clients = pytest.mark.skipif(not has_clients, reason="clip-retrieval is not installed: make clients")


def test_the_files_are_by_row_whatever_the_ids(home: Path, tmp_path: Path) -> None:
    export_index(home / "bundle", None, tmp_path / "b", codes=home / "bundle", ids="auto")
    remove(tmp_path / "b", [0, 3])
    out = to_clip_retrieval(tmp_path / "b", tmp_path / "served")
    assert json.loads((out / "indices_paths.json").read_text()) == {"served": str(out)}
    columns = duckdb.execute(f"FROM '{out}/metadata/metadata_0.parquet'").fetchnumpy()
    index = faiss.read_index(str(out / "image.index"))
    with open_bundle(tmp_path / "b") as bundle:
        assert columns["image_path"].tolist() == bundle.paths(range(58)) and columns["id"].tolist()[:2] == [1, 2]
        _, I = index.search(bundle.encoder.encode(home / "query.png"), 5)
        [hits] = bundle.search([home / "query.png"], k=5)
        assert I[0].tolist() == [hit.row for hit in hits]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "served"]


def test_the_command_writes_it_beside_the_bundle(home: Path, tmp_path: Path) -> None:
    call = ("export-index", home / "bundle", "--codes", home / "bundle", "--layout", "clip-retrieval", "--out")
    ok(*call, tmp_path / "b")
    assert (tmp_path / "b-clip-retrieval" / "image.index").is_file() and (tmp_path / "b" / "manifest.json").is_file()
    (tmp_path / "c-clip-retrieval").mkdir()
    assert "c-clip-retrieval exists" in fails(*call, tmp_path / "c") and not (tmp_path / "c").exists()


@pytest.fixture
def clip_back(monkeypatch: pytest.MonkeyPatch) -> Any:
    """clip-retrieval's back end, without the commands around it, which import OpenCLIP and img2dataset."""
    found = importlib.util.find_spec("clip_retrieval")
    assert found is not None and found.origin is not None
    package = types.ModuleType("clip_retrieval")
    package.__path__ = [str(Path(found.origin).parent)]
    monkeypatch.setitem(sys.modules, "clip_retrieval", package)
    return importlib.import_module("clip_retrieval.clip_back")


@needs_clients
def test_its_back_end_answers_with_the_hits(clip_back: Any, bundle: Bundle, home: Path, tmp_path: Path) -> None:
    folder = json.loads((to_clip_retrieval(home / "bundle", tmp_path / "s") / "indices_paths.json").read_text())["s"]
    index = clip_back.load_index(folder + "/image.index", True)  # memory-mapped
    columns = ["image_path", "year"]
    provider, _ = clip_back.load_metadata_provider(folder, False, False, index, columns, False)
    none = dict.fromkeys(clip_back.ClipResource.__dataclass_fields__)
    given = {"image_index": index, "metadata_provider": provider, "columns_to_return": columns}
    resource = clip_back.ClipResource(**none | given | {"metadata_is_ordered_by_ivf": False})
    xq = bundle.encoder.encode(home / "query.png")
    found = clip_back.KnnService(clip_resources={"s": resource}).query(
        embedding_input=xq[0].tolist(), num_images=5, num_result_ids=5, deduplicate=False
    )
    [hits] = bundle.search([home / "query.png"], k=5)
    assert [(f["image_path"], f["id"]) for f in found] == [(hit.path, hit.row) for hit in hits]
    assert [f["similarity"] for f in found] == pytest.approx([hit.score for hit in hits])
    assert found[0]["year"] == 2007


@needs_clients
def test_autofaiss_scores_it(documented: Callable[[str], dict[str, Any]], home: Path) -> None:
    names = documented("autofaiss and clip-retrieval")
    figures, xb = names["figures"], names["xb"]
    assert figures["nb vectors"] == 60 and figures["vectors dimension"] == 16
    with open_bundle(home / "bundle") as bundle:  # its 20-recall@20: of the nearest by these vectors
        exact = np.argsort(-(xb @ xb.T), axis=1)[:, :20]
        I = bundle.index.search(xb, 20)[1]
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact.tolist(), I.tolist(), strict=True)])
    assert figures["20-recall@20"] == pytest.approx(recall, abs=0.02)  # ties
