"""The HTTP service: what clients ask, and what they are told, against the bundle opened here."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import export_index, open_bundle, remove
from mecoq_faiss.index import read_codebooks
from tests.service.conftest import N, Running


def picture(collection: Path, name: str) -> bytes:
    return (collection / "photos" / name).read_bytes()


def test_a_search_gives_what_the_bundle_finds(reading: Running, collection: Path) -> None:
    paths = [collection / "photos/a/04.png", collection / "photos/b/07.png"]
    files = [("images", (path.name, path.read_bytes())) for path in paths]
    answer = reading.client.post("/search", files=files, data={"k": "5", "explain": "true"}).json()
    with open_bundle(collection / "bundle") as bundle:
        wanted = bundle.search([str(path) for path in paths], k=5)
        codebooks = read_codebooks(bundle.index)
        xq = bundle.encoder.encode([str(path) for path in paths])
    assert [result["query"] for result in answer["results"]] == ["04.png", "07.png"]
    for number, (result, hits) in enumerate(zip(answer["results"], wanted, strict=True)):
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose([hit["score"] for hit in result["hits"]], scores, atol=1e-5)
        for hit, score in zip(result["hits"], scores, strict=True):
            assert hit["relevance"] == pytest.approx((score + 4) / 8)
            number_in_name = int(hit["path"][2:4])
            assert hit["metadata"] == {"year": 2000 + number_in_name, "note": f"<b>{number_in_name}</b>"}
            assert hit["path"].startswith(hit["label"]) and hit["picture"] == f"/items/{hit['id']}/picture"
            assert sum(hit["segments"]) == pytest.approx(hit["score"], abs=1e-5)
            own = [codebooks[m, code] @ xq[number].reshape(4, -1)[m] for m, code in enumerate(hit["codes"])]
            np.testing.assert_allclose(hit["segments"], own, atol=1e-5)


def test_json_and_form_say_the_same(reading: Running, collection: Path) -> None:
    content = picture(collection, "a/10.png")
    form = reading.client.post("/search", files={"images": content}, data={"k": "3", "where": "year < 2030"})
    for text in (base64.b64encode(content).decode(), "data:image/png;base64," + base64.b64encode(content).decode()):
        json = reading.client.post("/search", json={"images": [text], "k": 3, "where": "year < 2030"})
        assert json.json()["results"][0]["hits"] == form.json()["results"][0]["hits"]
    assert all(int(hit["path"][2:4]) < 30 for hit in form.json()["results"][0]["hits"])


def test_another_bundle_is_searched_by_name(reading: Running, collection: Path) -> None:
    said = reading.client.get("/service").json()
    assert [(b["name"], b["items"], b["nbits"], b["bytes"]) for b in said["bundles"]] == [
        ("bundle", N, 8, 4.0),
        ("other", N, 4, 2.0),
    ]
    assert said["bundles"][0]["columns"] == ["id", "path", "label", "year", "note"] and not said["may_write"]
    answer = reading.client.post(
        "/search", files={"images": picture(collection, "a/02.png")}, data={"bundle": "other", "k": "2"}
    ).json()
    assert answer["bundle"] == "other" and answer["results"][0]["hits"][0]["picture"].endswith("?bundle=other")
    assert reading.client.get("/items/1?bundle=nowhere").status_code == 404


def test_what_codes_add_is_the_score_of_four_bits_too(reading: Running, collection: Path) -> None:
    files = {"images": picture(collection, "b/07.png")}
    answer = reading.client.post("/search", files=files, data={"bundle": "other", "explain": "true"}).json()
    for hit in answer["results"][0]["hits"]:
        assert sum(hit["segments"]) == pytest.approx(hit["score"], abs=1e-5)


def test_items_like_one_leave_itself_out(reading: Running, collection: Path) -> None:
    [result] = reading.client.get("/items/6/similar?k=4").json()["results"]
    with open_bundle(collection / "bundle") as bundle, bundle.in_use() as generation:
        D, I = bundle.index.search(generation.queries_like(np.array([6])), N)
    scores = {int(row): score for row, score in zip(I[0], D[0], strict=True)}
    assert len(result["hits"]) == 4 and 6 not in [hit["id"] for hit in result["hits"]]
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3, 4]
    best = sorted((score for row, score in scores.items() if row != 6), reverse=True)[:4]
    np.testing.assert_allclose([hit["score"] for hit in result["hits"]], best, atol=1e-5)


def test_an_item_and_its_picture(reading: Running) -> None:
    item = reading.client.get("/items/9").json()
    assert (item["path"], item["label"], item["metadata"]["year"], len(item["codes"])) == ("a/18.png", "a", 2018, 4)
    answer = reading.client.get("/items/9/picture?size=20")
    assert Image.open(BytesIO(answer.content)).size == (20, 15) and answer.headers["content-type"] == "image/jpeg"
    again = reading.client.get("/items/9/picture?size=20", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [
        ({"files": {"images": b"no image"}}, 422, "not an image"),
        ({"files": {"picture": b"x"}}, 422, "no image"),
        ({"json": {"images": []}}, 422, "no query"),
        ({"json": {"images": ["?"]}}, 422, "no base64"),
        ({"json": {"vectors": [[1.0]]}}, 422, "takes images"),
        ({"json": {"vectors": [[1.0], [1.0, 2.0]]}}, 422, "differ in width"),
        ({"json": {"vectors": [[1e300]]}}, 422, "beyond float32"),
        ({"json": {"images": ["YQ=="], "k": 0}}, 422, "k:"),
        ({"json": {"images": ["YQ=="], "nprobe": 1}}, 422, "nprobe"),
        ({"json": {}}, 422, "either images"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "Invalid JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "multipart"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
    ],
)
def test_wrong_searches_are_told_what_is_wrong(reading: Running, what: dict, status: int, says: str) -> None:
    answer = reading.client.post("/search", **what)
    assert answer.status_code == status and says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_that_is_too_large_is_not_read(reading: Running) -> None:
    for content in (b"x" * (33 << 20), iter([b"x" * (1 << 20)] * 33)):  # the second does not say its length
        assert reading.client.post("/search", content=content).status_code in (413, 415)
    headers = {"content-type": "application/json"}
    assert reading.client.post("/search", content=b"x" * (33 << 20), headers=headers).status_code == 413
    assert reading.client.get("/health").status_code == 200


def test_wrong_options_are_told(reading: Running, collection: Path) -> None:
    files = {"images": picture(collection, "a/02.png")}
    for options, says in (
        ({"where": "year >"}, "no filter"),
        ({"where": "nothing = 1"}, "the columns are id, path, label, year, note"),
        ({"k": str(N + 1)}, f"choose 1 to {N}"),
        ({"k": "many"}, "k:"),
        ({"size": "1"}, "the field 'size'"),
    ):
        answer = reading.client.post("/search", files=files, data=options)
        assert answer.status_code == 422 and says in answer.json()["error"]
    for path in ("/items/777", "/items/777/similar", "/items/777/picture"):
        assert reading.client.get(path).status_code == 404
    assert reading.client.get("/items/x").status_code == 422
    assert reading.client.get("/items/99999999999999999999").status_code in (404, 422)


def test_keys_say_who_may_read_and_who_may_write(
    serve: Callable[..., Running], collection: Path, tmp_path: Path, keys: tuple[Path, str, str]
) -> None:
    bundle = shutil.copytree(collection / "bundle", tmp_path / "bundle")
    path, read, write = keys
    running = serve(bundle, api_keys=path)
    client = running.client
    assert client.get("/health").status_code == client.get("/").status_code == 200
    files = {"images": ("new.png", picture(collection, "a/02.png"))}
    for headers, statuses in (
        ({}, (401, 401, 401)),
        ({"Authorization": "Bearer wrong"}, (401, 401, 401)),
        ({"Authorization": f"Basic {read}"}, (401, 401, 401)),
        ({"Authorization": f"Bearer {read}"}, (200, 403, 403)),
    ):
        got = (
            client.post("/search", files=files, headers=headers).status_code,
            client.post("/items", files=files, headers=headers).status_code,
            client.delete("/items/1", headers=headers).status_code,
        )
        assert got == statuses
    assert read not in path.read_text() and path.stat().st_mode & 0o077 == 0
    assert client.get("/service", headers={"Authorization": f"Bearer {write}"}).json()["may_write"]


def test_items_come_and_go(
    serve: Callable[..., Running], collection: Path, tmp_path: Path, keys: tuple[Path, str, str]
) -> None:
    bundle = shutil.copytree(collection / "bundle", tmp_path / "bundle")
    photos = shutil.copytree(collection / "photos", tmp_path / "photos")
    running = serve(bundle, api_keys=keys[0], images=photos)
    client, before = running.client, running.state.served["bundle"].bundle.manifest
    client.headers["Authorization"] = f"Bearer {keys[2]}"
    out = BytesIO()
    Image.new("RGB", (30, 30), "red").save(out, "PNG")
    answer = client.post("/items", files={"images": ("a/red.png", out.getvalue())})
    assert answer.status_code == 201 and answer.json()["items"] == N + 1
    [result] = client.post("/search", files={"images": out.getvalue()}, data={"where": "path = 'a/red.png'"}).json()[
        "results"
    ]
    [hit] = result["hits"]
    assert hit["label"] == "a" and client.get(hit["picture"]).status_code == 200
    assert (photos / "a/red.png").read_bytes() == out.getvalue()
    assert client.post("/items", files={"images": ("a/red.png", out.getvalue())}).status_code == 409
    assert client.delete(f"/items/{hit['id']}").json()["items"] == N
    assert client.delete(f"/items/{hit['id']}").status_code == 404
    assert (photos / "a/red.png").exists() and before != running.state.served["bundle"].bundle.manifest


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", ".x.png", "x.exe", "a\\b.png", "x"])
def test_no_item_is_put_elsewhere(
    serve: Callable[..., Running], collection: Path, tmp_path: Path, keys: tuple[Path, str, str], name: str
) -> None:
    running = serve(collection / "bundle", api_keys=keys[0], images=tmp_path)
    headers = {"Authorization": f"Bearer {keys[2]}"}
    answer = running.client.post("/items", files={"images": (name, picture(collection, "a/02.png"))}, headers=headers)
    assert answer.status_code == 422
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_no_item_is_put_elsewhere_through_a_link(
    serve: Callable[..., Running], collection: Path, tmp_path: Path, keys: tuple[Path, str, str]
) -> None:
    bundle = shutil.copytree(collection / "bundle", tmp_path / "bundle")
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in/a").symlink_to(tmp_path / "out")
    running = serve(bundle, api_keys=keys[0], images=tmp_path / "in")
    files = {"images": ("a/new.png", picture(collection, "a/02.png"))}
    headers = {"Authorization": f"Bearer {keys[2]}"}
    for query in ("", "?replace=true"):
        answer = running.client.post(f"/items{query}", files=files, headers=headers)
        assert answer.status_code == 422 and str(tmp_path) not in answer.text
    assert not list((tmp_path / "out").iterdir()) and len(running.state.served["bundle"].bundle) == N


def test_pictures_lie_under_their_folder_only(serve: Callable[..., Running], collection: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").symlink_to(collection / "photos/a")  # out of the folder
    running = serve(collection / "bundle", images=tmp_path / "in")
    answer = running.client.get("/items/0/picture")
    assert answer.status_code == 404 and str(tmp_path) not in answer.text


def test_who_asks_too_often_waits(serve: Callable[..., Running], collection: Path) -> None:
    running = serve(collection / "bundle", rate="3/minute")
    statuses = [running.client.get("/items/1/similar").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert int(running.client.get("/items/1/similar").headers["retry-after"]) == 60
    assert running.client.get("/items/1").status_code == 200


def test_a_full_queue_is_told(serve: Callable[..., Running], collection: Path) -> None:
    running = serve(collection / "bundle", waiting=1)
    running.state.served["bundle"].batches._count = 1  # as if one waited
    answer = running.client.get("/items/1/similar")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_another_export_is_taken_up_and_a_damaged_one_is_not(
    serve: Callable[..., Running], collection: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(collection / "bundle", tmp_path / "bundle")
    running = serve(bundle)
    client = running.client
    first = client.get("/service").json()["bundles"][0]["generation"]
    (tmp_path / "few").mkdir()
    for i in (0, 2, 4):
        shutil.copy(collection / f"photos/a/{i:02}.png", tmp_path / "few")
    export_index(collection / "run8", tmp_path / "few", tmp_path / "new", workers=0)
    bundle.rename(tmp_path / "old")
    (tmp_path / "new").rename(bundle)
    wait_for(lambda: client.get("/service").json()["bundles"][0]["items"] == 3)
    assert client.get("/service").json()["bundles"][0]["generation"] != first
    (bundle / "index.faiss").write_bytes(b"damaged")
    (bundle / "manifest.json").write_text("{}")
    time.sleep(0.4)
    assert client.get("/items/0/similar?k=2").status_code == 200


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_features_are_searched_by_vectors(serve: Callable[..., Running], tmp_path: Path) -> None:
    from mecoq_faiss import ModelConfig, TrainConfig, train

    x = np.random.default_rng(0).normal(size=(80, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    model = ModelConfig(backbone="features", weights="none", feature_dim=12, hidden=16, D=16, M=2, nbits=4)
    train(tmp_path / "x.npy", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=40))
    export_index(tmp_path / "run", tmp_path / "x.npy", tmp_path / "bundle")
    client = serve(tmp_path / "bundle").client
    answer = client.post("/search", json={"vectors": x[:2].tolist(), "k": 3})
    with open_bundle(tmp_path / "bundle") as bundle:
        wanted = bundle.search(x[:2], k=3)
    got = [[hit["score"] for hit in result["hits"]] for result in answer.json()["results"]]
    np.testing.assert_allclose(got, [[hit.score for hit in hits] for hits in wanted], atol=1e-5)
    assert client.post("/search", json={"vectors": [[1.0]]}).json()["error"].endswith("width 12, got 1")
    assert client.post("/search", files={"images": b"x"}).status_code == 422


def test_what_is_told_about_itself(reading: Running) -> None:
    described = reading.client.get("/openapi.json").json()
    assert {"/search", "/items", "/items/{id}", "/items/{id}/similar", "/health"} <= set(described["paths"])
    body = described["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"} and body["application/json"]["examples"]
    reading.client.get("/items/0")
    text = reading.client.get("/metrics").text
    assert "mecoq_faiss_encode_seconds_count" in text and 'mecoq_faiss_items{bundle="bundle"} 60.0' in text
    assert 'route="/items/{id}"' in text
    page = reading.client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text and "http" not in page.text.replace("http-equiv", "")


def test_one_slow_or_deadly_image_stops_nothing(serve: Callable[..., Running], collection: Path) -> None:
    from mecoq_faiss.service import decoding

    running = serve(collection / "bundle", seconds=6.0)
    pool = running.state.decoder._pool
    with pytest.raises(Exception):  # noqa: B017 - the process ends
        pool.schedule(decoding.os._exit, args=[1], timeout=5).result()
    files = {"images": picture(collection, "a/02.png")}
    assert running.client.post("/search", files=files).status_code == 200


def test_clients_at_once_get_their_own_answers(reading: Running, collection: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"{'ab'[i % 2]}/{i:02}.png" for i in range(24)]

    def ask(name: str) -> float:
        answer = httpx.post(
            f"{reading.url}/search", files={"images": picture(collection, name)}, data={"k": str(N)}, timeout=60
        )
        return {hit["path"]: hit["score"] for hit in answer.json()["results"][0]["hits"]}[name]

    with ThreadPoolExecutor(12) as threads:
        got = list(threads.map(ask, names))
    with open_bundle(collection / "bundle") as bundle:
        hits = bundle.search([str(collection / "photos" / name) for name in names], k=N)
    wanted = [next(hit.score for hit in mine if hit.path == name) for mine, name in zip(hits, names, strict=True)]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_no_request_is_lost_while_bundles_are_exchanged(
    serve: Callable[..., Running], collection: Path, tmp_path: Path
) -> None:
    from threading import Event, Thread

    bundle = shutil.copytree(collection / "bundle", tmp_path / "bundle")
    running = serve(bundle, watch=0.02)
    content, done, statuses = picture(collection, "a/02.png"), Event(), []

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            while not done.is_set():
                statuses.append(client.post("/search", files={"images": content}, data={"k": "3"}).status_code)

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: set[str] = set()
    for turn in range(6):
        new = shutil.copytree(collection / "bundle", tmp_path / f"new{turn}")
        manifest = (new / "manifest.json").read_text()
        (new / "manifest.json").write_text(manifest.replace('"created"', f'"turn": {turn}, "created"'))
        bundle.rename(tmp_path / f"old{turn}")
        new.rename(bundle)
        before = set(seen)
        while seen == before:
            seen.add(running.client.get("/service").json()["bundles"][0]["generation"])
        enough = len(statuses) + 4
        while len(statuses) < enough:
            time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(seen) >= 6 and set(statuses) == {200}


def test_a_bundle_in_shards_is_served_as_any_other(
    serve: Callable[..., Running], reading: Running, collection: Path, tmp_path: Path
) -> None:
    table = collection / "years.csv"
    export_index(collection / "run8", collection / "photos", tmp_path / "bundle", shards=3, metadata=table, workers=0)
    running = serve(tmp_path / "bundle", images=collection / "photos")
    files = {"images": picture(collection, "a/04.png")}
    for asked in ({"k": "7", "explain": "true"}, {"k": "5", "where": "year >= 2031 and label = 'b'"}):
        answers = [one.client.post("/search", files=files, data=asked).json() for one in (running, reading)]
        assert answers[0]["results"] == answers[1]["results"]
    assert running.client.get("/items/41").json() == reading.client.get("/items/41").json()
    assert (
        running.client.get("/items/41/similar?k=3").status_code
        == reading.client.get("/items/41/similar?k=3").status_code
    )

    remove(tmp_path / "bundle", [41])  # taken up by itself

    deadline = time.monotonic() + 30
    while running.client.get("/items/41").status_code != 404 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.client.get("/items/41").status_code == 404 and running.client.get("/items/42").status_code == 200
