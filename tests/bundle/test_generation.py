"""One opened export: its hits against numpy, its filters, its paths."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, train
from mecoq_faiss.bundle.folder import ITEMS, read_items
from mecoq_faiss.bundle.generation import Generation
from mecoq_faiss.index import KINDS
from tests.exact import search_exact

N = 200


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, x: np.ndarray) -> Path:
    """Features with paths, and runs of 8 and 4 bits on them."""
    folder = tmp_path_factory.mktemp("generation")
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = x
        file["paths"] = [f"{i:03}.jpg" for i in range(N)]
    for nbits in (8, 4):
        model = ModelConfig(backbone="features", feature_dim=12, hidden=16, D=16, M=4, nbits=nbits)
        train(folder / "x.h5", folder / f"run{nbits}", model, TrainConfig(epochs=1, batch_size=50, workers=0))
    return folder


@pytest.fixture(scope="module")
def exported(made: Path) -> Callable[..., Path]:
    """A bundle of a kind, with options of `export_index`, made once."""

    def export(kind: str, refine: bool = False, own_ids: bool = False) -> Path:
        nbits = 4 if kind.endswith("fs") else 8
        out = made / f"{kind}-{refine}-{own_ids}"
        options: dict[str, Any] = (
            {"nlist": 4} if kind == "ivfpq-all" else {"nlist": 8, "nprobe": 3} if kind.startswith("ivf") else {}
        )
        if not out.exists():
            ids = np.arange(N) * 3 + 7 if own_ids else None
            data = made / "x.h5"
            export_index(made / f"run{nbits}", data, out, kind=kind, ids=ids, workers=0, refine=refine, **options)
        return out

    return export


@pytest.mark.parametrize("own_ids", [False, True])
def test_hits_are_those_of_an_exact_search(exported: Callable[..., Path], x: np.ndarray, own_ids: bool) -> None:
    path = exported("pq", own_ids=own_ids)
    with closing(Generation(path, "cpu")) as generation:
        assert len(generation) == N and generation.users == 0
        books = load_encoder(path).model.quantizer.unit_codebooks().detach().numpy()
        codes, queries = read_items(path / ITEMS)["codes"], x[:20]
        found = generation.search(queries, 7, None)
        D = search_exact(books, codes, generation.encoder.encode(queries), 7)[0]
        np.testing.assert_allclose([[hit.score for hit in hits] for hits in found], D, atol=1e-5)
        stands_for = np.concatenate([books[m, codes[:, m]] for m in range(4)], axis=1)
        scores = generation.encoder.encode(queries) @ stands_for.T
        for hits, row_scores in zip(found, scores, strict=True):
            assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
            np.testing.assert_allclose([hit.score for hit in hits], row_scores[[hit.row for hit in hits]], atol=1e-5)
            assert [hit.path for hit in hits] == [f"{hit.row:03}.jpg" for hit in hits]
            assert [hit.id for hit in hits] == [hit.row * 3 + 7 if own_ids else hit.row for hit in hits]
        assert [len(hits) for hits in generation.search(x[:2], None, None)] == [10, 10]
        assert [len(hits) for hits in generation.search(x[:2], N, None)] == [N, N]
        for k in (0, N + 1):
            with pytest.raises(ValueError, match=f"^k={k} is out of range: the bundle has 200 items, choose 1 to 200$"):
                generation.search(x[:1], k, None)


@pytest.mark.parametrize("kind", ["ivfpq", "ivfpq-all"])
@pytest.mark.parametrize("own_ids", [False, True])
def test_lists_reconstruct_what_codes_stand_for(exported: Callable[..., Path], kind: str, own_ids: bool) -> None:
    path = exported(kind, own_ids=own_ids)
    with closing(Generation(path, "cpu")) as generation:
        rows = np.array([0, 5, N - 1])
        found = [generation.index.reconstruct(int(id)) for id in (rows * 3 + 7 if own_ids else rows)]
        np.testing.assert_allclose(found, generation.queries_like(rows), atol=1e-6)


def test_a_kind_s_former_name_is_read_and_taken(made: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    import json
    import shutil

    path = shutil.copytree(exported("ivfpq-all"), tmp_path / "former")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"kind": "gpu"}))
    with closing(Generation(path, "cpu")) as generation:
        assert generation.manifest == manifest and manifest["kind"] == "ivfpq-all"
    again = export_index(made / "run8", made / "x.h5", tmp_path / "again", kind="gpu", nlist=4)
    assert (again["kind"], again["nlist"]) == ("ivfpq-all", 4)


def test_paths_of_rows(exported: Callable[..., Path]) -> None:
    with closing(Generation(exported("pq"))) as generation:
        rows = np.array([3, 199, 3, 0])
        assert generation.paths(rows) == ["003.jpg", "199.jpg", "003.jpg", "000.jpg"]
        assert generation.paths(np.array([], np.int64)) == []
        for wrong, said in (([-1, 5], "rows -1 to 5"), ([N], "rows 200 to 200")):
            with pytest.raises(ValueError, match=f"^{said} are not all there: give 0 to 199$"):
                generation.paths(np.array(wrong))


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a bundle \(no manifest.json\)"):
        Generation(tmp_path)


@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize(("kind", "refine"), [(kind, False) for kind in KINDS] + [("pqfs", True), ("ivfpqfs", True)])
def test_a_filter_leaves_what_a_search_of_everything_finds(
    exported: Callable[..., Path], x: np.ndarray, kind: str, refine: bool, own_ids: bool
) -> None:
    """The same items in the same order, without the others."""
    queries = x[:10]
    rng = np.random.default_rng(1)
    with closing(Generation(exported(kind, refine, own_ids))) as generation:
        everything = generation.search(queries, N, None)
        ids = np.array(sorted({hit.id for hits in everything for hit in hits}))
        allowed = rng.permutation(ids)[: len(ids) // 3]
        found = generation.search(queries, N, allowed)
        for filtered, hits in zip(found, everything, strict=True):
            kept = [hit for hit in hits if hit.id in set(allowed.tolist())]
            assert {hit.id: (hit.row, hit.path) for hit in filtered} == {hit.id: (hit.row, hit.path) for hit in kept}
            np.testing.assert_allclose([h.score for h in filtered], [h.score for h in kept], atol=1e-6)
            assert [hit.rank for hit in filtered] == list(range(1, len(kept) + 1))
        assert sum(map(len, found)) > 100
        assert [hits[:3] for hits in found] == generation.search(queries, 3, allowed) or kind.endswith("fs")
        assert generation.search(queries, 3, []) == [[]] * 10
        assert generation.search(queries, 3, [10**6, -5]) == [[]] * 10
        assert generation.search(queries, N, [*allowed.tolist(), 10**6]) == found
        for wrong in (ids > 3, ids + 0.5, ids[None], 3):
            with pytest.raises(ValueError, match="give the ids to search") as error:
                generation.search(queries, 3, wrong)
            assert "\n" not in str(error.value)
