"""`search`: its hits are FAISS's own, for images and for features; queries and bundles that it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import faiss
import h5py
import numpy as np

from mecoq_faiss import load_encoder
from tests.cli.calls import fails, ok


def test_an_application_needs_only_faiss_and_the_encoder(bundle: Path, digit_image: Path) -> None:
    index = faiss.read_index(str(bundle / "index.faiss"))
    D, I = index.search(load_encoder(bundle).encode([digit_image]), 10)
    assert isinstance(index, faiss.IndexPQ) and np.abs(D).max() <= index.pq.M
    assert I.shape == (1, 10) and (np.diff(D[0]) <= 0).all()
    hits = json.loads(ok("search", bundle, digit_image, "-k", 10, "--json"))[0]["hits"]
    np.testing.assert_allclose([hit["score"] for hit in hits], D[0], atol=1e-6)
    assert [hit["row"] for hit in hits] == I[0].tolist()
    with h5py.File(bundle / "items.h5") as file:
        assert hits[0]["path"] == file["paths"].asstr()[hits[0]["row"]]


def test_it_prints_a_table(bundle: Path, digit_image: Path) -> None:
    lines = ok("search", bundle, digit_image, "-k", 3).splitlines()
    assert lines[0] == str(digit_image) and len(lines) == 4
    assert re.fullmatch(r" +1 +-?\d\.\d{4}  digits/\d+-\d\.png", lines[1])


def test_rows_of_features_are_queries(features: Path, feature_bundle: Path, tmp_path: Path) -> None:
    x = np.load(features)
    index = faiss.read_index(str(feature_bundle / "index.faiss"))
    D, I = index.search(load_encoder(feature_bundle).encode(x[:3]), 5)
    np.save(tmp_path / "queries.npy", x[:2])
    with h5py.File(tmp_path / "queries.h5", "w") as file:
        file["features"] = x[2:3]
    queries = tmp_path / "queries.npy", tmp_path / "queries.h5"
    found = json.loads(ok("search", feature_bundle, *queries, "-k", 5, "--json"))
    assert [query["query"] for query in found] == [f"{queries[0]}:0", f"{queries[0]}:1", f"{queries[1]}:0"]
    assert [[hit["row"] for hit in query["hits"]] for query in found] == I.tolist()
    np.testing.assert_allclose([[hit["score"] for hit in query["hits"]] for query in found], D, atol=1e-5)
    table = ok("search", feature_bundle, queries[0], "-k", 5).splitlines()
    assert len(table) == 2 * 6 and table[6] == f"{queries[0]}:1" and table[7].split()[0] == "1"


def test_ten_results_or_all_of_a_smaller_bundle(picture_bundle: Path, three_bundle: Path, pictures: Path) -> None:
    query = next((pictures / "light").glob("*.png"))
    assert len(json.loads(ok("search", picture_bundle, query, "--json"))[0]["hits"]) == 10
    assert len(json.loads(ok("search", three_bundle, query, "--json"))[0]["hits"]) == 3
    assert "k=10 is out of range" in fails("search", three_bundle, query, "-k", 10)


def test_k_out_of_range(bundle: Path, digit_image: Path) -> None:
    for k in (0, -3, 1501):
        assert "out of range" in fails("search", bundle, digit_image, "-k", k)


def test_a_condition(picture_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,year\n" + "".join(f"dark/{i:02}.jpg,{2000 + i}\n" for i in range(0, 20, 6)))
    given = ("--codes", picture_bundle, "--metadata", tmp_path / "t.csv")
    ok("export-index", picture_bundle, *given, "--out", tmp_path / "with")
    query = pictures / "dark" / "00.jpg"
    found = json.loads(ok("search", tmp_path / "with", query, "--where", "year > 2000 and label == 'dark'", "--json"))
    assert sorted(hit["path"] for hit in found[0]["hits"]) == [f"dark/{i:02}.jpg" for i in (6, 12, 18)]
    alone = json.loads(ok("search", picture_bundle, query, "--where", "label = 'light'", "--json"))
    assert {hit["path"][:5] for hit in alone[0]["hits"]} == {"light"}
    for where in ("yea > 3", "1=1); DROP TABLE items; --", "id in (select 1 from read_csv('/etc/passwd'))", ""):
        line = fails("search", tmp_path / "with", query, "--where", where)
        assert line.startswith("Error: where=") and line.endswith("the columns are id, path, label, year")
    (tmp_path / "bad.csv").write_text("file,year\na,1\n")
    for command in (("add", picture_bundle, query), ("update", picture_bundle, "--data", pictures)):
        assert "no column path or id" in fails(*command, "--metadata", tmp_path / "bad.csv")


def test_a_bad_query_is_named(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    assert "nowhere.jpg" in fails("search", bundle, "nowhere.jpg")
    assert "text.jpg" in fails("search", bundle, tmp_path / "text.jpg")
    assert "broken.jpg" in fails("search", bundle, pictures / "dark" / "broken.jpg")


def test_queries_of_another_kind_are_named(
    bundle: Path, feature_bundle: Path, features: Path, digit_image: Path, tmp_path: Path
) -> None:
    assert "x.npy is a file of features: the model takes images" in fails("search", bundle, features)
    assert "query.png: the model takes features" in fails("search", feature_bundle, digit_image)
    for either in (bundle, feature_bundle):
        assert f"{tmp_path} is a folder" in fails("search", either, tmp_path)


def test_not_a_bundle(digit_image: Path, tmp_path: Path) -> None:
    assert "not a bundle" in fails("search", tmp_path, digit_image)


def test_altered_bundles_are_refused(broken: Path, digit_image: Path) -> None:
    index = broken / "index.faiss"
    whole = index.read_bytes()
    index.write_bytes(whole[:-100])
    assert "index.faiss" in fails("search", broken, digit_image)
    index.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "index.faiss" in fails("search", broken, digit_image)
    index.write_bytes(whole)
    weights = broken / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in fails("search", broken, digit_image)
    weights.unlink()
    assert "model.safetensors" in fails("search", broken, digit_image)


def test_altered_manifests_are_refused(broken: Path, digit_image: Path) -> None:
    path = broken / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 99}))
    assert "newer" in fails("search", broken, digit_image)
    path.write_text(path.read_text()[:50])
    assert "damaged" in fails("search", broken, digit_image)
    wrong: object
    for wrong in ([], {"format": "1"}, {"format": 1}, {"format": 1, "files": {}}):
        path.write_text(json.dumps(wrong))
        fails("search", broken, digit_image)


def test_hits_go_into_a_table(bundle: Path, digit_image: Path, tmp_path: Path) -> None:
    import duckdb

    out = tmp_path / "hits.parquet"
    ok("search", bundle, digit_image, digit_image, "-k", 3, "--out", out)
    [one, _] = json.loads(ok("search", bundle, digit_image, digit_image, "-k", 3, "--json"))
    table = duckdb.connect().execute(f"FROM '{out}'")
    names, rows = [column[0] for column in table.description or ()], table.fetchall()
    wanted = [tuple([one["query"], *hit.values()]) for hit in one["hits"]]
    assert names == ["query", "rank", "score", "row", "path", "id"] and rows[:3] == wanted and len(rows) == 6
    assert "exists" in fails("search", bundle, digit_image, "--out", out)
    assert ".parquet" in fails("search", bundle, digit_image, "--out", tmp_path / "hits.csv")
