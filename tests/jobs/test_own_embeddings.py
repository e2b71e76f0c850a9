"""A team's own embeddings: a .npy with the table beside it, or an .h5, from training to a bundle that follows them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, add, evaluate, export_index, open_bundle, train, update, verify
from mecoq_faiss.bundle.folder import METADATA, read_manifest
from tests.jobs.living import ids_of

N = 60
X = np.random.default_rng(0).normal(size=(N + 2, 8)).astype(np.float16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    np.save(folder / "emb.npy", X[:N])
    write_table(folder / "emb.csv", range(N))
    model = ModelConfig(M=2, D=8, hidden=8, nbits=4)
    train(folder / "emb.npy", folder / "run", model, TrainConfig(epochs=1, batch_size=20))
    return folder / "run"


@pytest.fixture
def emb(tmp_path: Path) -> Path:
    np.save(tmp_path / "emb.npy", X[:N])
    write_table(tmp_path / "emb.csv", range(N))
    return tmp_path / "emb.npy"


def write_table(path: Path, rows: Iterable[int], year: int = 2000) -> None:
    lines = (f"p/{i}.jpg,{500 + i},{'ab'[i % 2]},{year + i}\n" for i in rows)
    path.write_text("path,id,label,year\n" + "".join(lines))


def years(bundle: Path) -> dict[str, int]:
    by_id = dict(duckdb.execute(f"SELECT id, year FROM read_parquet('{bundle / METADATA}')").fetchall())
    return {path: by_id[id] for path, id in ids_of(bundle).items()}


def test_paths_ids_labels_and_metadata_of_the_table(run: Path, emb: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_index(run, emb, bundle, ids=emb.with_suffix(".csv"))
    assert ids_of(bundle) == {f"p/{i}.jpg": 500 + i for i in range(N)}
    assert years(bundle) == {f"p/{i}.jpg": 2000 + i for i in range(N)}
    with open_bundle(bundle) as opened:
        [hits] = opened.search(X[:1], k=N, where="year < 2010 and label = 'b'")
        assert {(hit.id, hit.path) for hit in hits} == {(500 + i, f"p/{i}.jpg") for i in range(1, 10, 2)}
    assert evaluate(bundle, emb, k=5)["queries"] == N
    verify(bundle)


def test_an_update_follows_vectors_and_table(run: Path, emb: Path, tmp_path: Path) -> None:
    bundle, csv = tmp_path / "bundle", emb.with_suffix(".csv")
    export_index(run, emb, bundle)
    before = read_manifest(bundle)
    assert update(bundle, emb)["unchanged"] == N and read_manifest(bundle) == before
    write_table(csv, range(N), year=1900)
    assert update(bundle, emb)["with_metadata"] == N and years(bundle)["p/7.jpg"] == 1907
    np.save(emb, X[5 : N + 1])
    after = read_manifest(bundle)
    with pytest.raises(ValueError, match="has 60 rows for 56 features"):
        update(bundle, emb)
    assert read_manifest(bundle) == after
    write_table(csv, range(5, N + 1), year=1900)
    done = update(bundle, emb)
    assert (done["added"], done["removed"], done["unchanged"]) == (1, 5, N - 5)
    assert years(bundle) == {f"p/{i}.jpg": 1900 + i for i in range(5, N + 1)}


def test_a_table_that_is_given_takes_the_place_of_the_one_beside(run: Path, emb: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("path,grade\np/3.jpg,7\n")
    manifest = export_index(run, emb, tmp_path / "bundle", metadata=tmp_path / "other.csv")
    assert manifest["metadata"] == {"rows": 1, "columns": {"grade": "BIGINT"}}


def test_rows_of_features_are_added_by_their_paths(run: Path, emb: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_index(run, emb, bundle)
    np.save(tmp_path / "more.npy", X[N - 1 :])
    with pytest.raises(ValueError, match="its rows have no paths"):
        add(bundle, tmp_path / "more.npy")
    with pytest.raises(ValueError, match="leave --root out"):
        add(bundle, tmp_path / "more.npy", root=tmp_path)
    write_table(tmp_path / "more.csv", range(N - 1, N + 2), year=2000)
    done = add(bundle, tmp_path / "more.npy")
    assert (done["added"], done["unchanged"], done["items"]) == (2, N, N + 2)
    assert years(bundle) == {f"p/{i}.jpg": 2000 + i for i in range(N + 2)}


def test_lists_of_an_h5_are_ids_and_metadata(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "emb.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["paths"] = X[:N].astype(">f8"), [f"p/{i}.jpg" for i in range(N)]
        file["ids"], file["year"] = 500 + np.arange(N), 2000 + np.arange(N)
    export_index(run, path, tmp_path / "bundle", ids=path, metadata=path)
    assert ids_of(tmp_path / "bundle")["p/9.jpg"] == 509 and years(tmp_path / "bundle")["p/9.jpg"] == 2009


def test_a_path_of_two_rows_is_refused_by_an_update(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "emb.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["paths"] = X[:N], ["twice", "twice", *map(str, range(N - 2))]
    export_index(run, path, tmp_path / "bundle")
    with pytest.raises(ValueError, match="2 rows have the path 'twice'"):
        update(tmp_path / "bundle", path)


@pytest.mark.parametrize(
    ("table", "said"),
    [("year\n1\n", "has no column id"), ("id\n1\n1\n", "1 occurs more than once|shape"), ("id\na\n", "is VARCHAR")],
)
def test_tables_without_ids(table: str, said: str, run: Path, emb: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text(table)
    with pytest.raises(ValueError, match=said):
        export_index(run, emb, tmp_path / "bundle", ids=tmp_path / "ids.csv")
    assert not list(tmp_path.glob("bundle*"))
