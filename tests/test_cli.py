"""Every command as a user types it, on digits and on a folder of images; then wrong input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mecoq_faiss import load_encoder
from mecoq_faiss_cli.main import COMMANDS, main

QUICK = ("--backbone", "pixels", "--image-size", "8", "--epochs", "2", "--batch-size", "256", "--set", "flip=0")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ok(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object, code: int = 1) -> str:
    """The one line that a failing command prints; no traceback."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def run(work: Path) -> Path:
    ok("train", "--data", "digits", "--out", work / "run", *QUICK)
    return work / "run"


@pytest.fixture(scope="module")
def bundle(work: Path, run: Path) -> Path:
    ok("export-index", run, "--data", "digits", "--out", work / "bundle")
    return work / "bundle"


@pytest.fixture(scope="module")
def photos(work: Path) -> Path:
    """Two classes of pictures in the formats that people have, and a broken one."""
    folder = work / "photos"
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            low = 0 if name == "dark" else 150
            pixels = rng.integers(low, low + 100, (20 + i, 30, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            ending = ("jpg", "png", "webp", "bmp", "gif", "tiff")[i % 6]
            if ending == "png":
                image = image.convert("RGBA" if i % 12 else "P")
            if ending == "jpg" and i % 4 == 0:
                image = image.convert("CMYK")
            image.save(folder / name / f"{i:02}.{ending}")
    (folder / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="module")
def digit_image(work: Path) -> Path:
    from mecoq_faiss.datasets import open_source

    path = work / "query.png"
    open_source("digits", "queries").open(0).save(path)
    return path


def test_every_command_has_help() -> None:
    assert all(name in ok("--help") for name in COMMANDS)
    for name in COMMANDS:
        assert "Usage:" in ok(name, "--help")


def test_train_writes_a_run(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "last.pt", "metrics.jsonl", "model.safetensors", "split.json"}
    split = json.loads((run / "split.json").read_text())
    assert split["protocol"]["name"] == "digits" and len(split["paths"]) == 1500


def test_an_application_needs_only_faiss_and_the_encoder(bundle: Path, digit_image: Path) -> None:
    index = faiss.read_index(str(bundle / "index.faiss"))
    D, I = index.search(load_encoder(bundle).encode([digit_image]), 10)
    assert I.shape == (1, 10) and (np.diff(D[0]) <= 0).all() and np.abs(D).max() <= index.pq.M
    hits = json.loads(ok("search", bundle, digit_image, "-k", 10, "--json"))[0]["hits"]
    np.testing.assert_allclose([hit["score"] for hit in hits], D[0], atol=1e-6)
    assert [hit["row"] for hit in hits] == I[0].tolist()
    with h5py.File(bundle / "items.h5") as file:
        assert hits[0]["path"] == file["paths"].asstr()[hits[0]["row"]]


def test_tensorboard_events_when_asked(work: Path) -> None:
    ok("train", "--data", "digits", "--out", work / "board", *QUICK, "--tensorboard")
    assert list((work / "board" / "tensorboard").glob("events.out.tfevents.*"))


def test_search_prints_a_table(bundle: Path, digit_image: Path) -> None:
    lines = ok("search", bundle, digit_image, "-k", 3).splitlines()
    assert lines[0] == str(digit_image) and len(lines) == 4
    assert re.fullmatch(r" +1 +-?\d\.\d{4}  digits/\d+-\d\.png", lines[1])


def test_evaluate_gives_the_same_for_run_and_bundle(run: Path, bundle: Path) -> None:
    of_run = json.loads(ok("evaluate", run, "--queries", "digits", "--database", "digits", "-k", 100, "--json"))
    of_bundle = json.loads(ok("evaluate", bundle, "--queries", "digits", "-k", 100, "--json"))
    assert of_run == of_bundle
    assert of_run["map"] > 0.4 and of_run["items"] == 1500  # chance is 0.1


def test_encode_agrees_with_the_bundle(run: Path, bundle: Path, work: Path) -> None:
    out = work / "codes.h5"
    assert json.loads(ok("encode", run, "--data", "digits", "--out", out, "--json"))["items"] == 1500
    with h5py.File(out) as encoded, h5py.File(bundle / "items.h5") as items:
        np.testing.assert_array_equal(encoded["codes"][:], items["codes"][:])
        norms = np.linalg.norm(encoded["embeddings"][:].astype(np.float32).reshape(1500, 4, -1), axis=-1)
        np.testing.assert_allclose(norms, 1, atol=1e-3)
    index = faiss.read_index(str(bundle / "index.faiss"))
    with h5py.File(out) as encoded:
        codes = index.sa_encode(encoded["embeddings"][:].astype(np.float32))
        assert (codes == encoded["codes"][:]).mean() > 0.99  # float16 moves a few across a border


def test_info_describes_each_kind_of_path(run: Path, bundle: Path) -> None:
    kinds = {path: json.loads(ok("info", path, "--json"))["type"] for path in (run, bundle, bundle / "index.faiss")}
    assert list(kinds.values()) == ["run", "bundle", "index"]
    assert json.loads(ok("info", bundle / "items.h5", "--json"))["type"] == "encoded"
    assert json.loads(ok("info", run, "--json"))["finished"] is True


def test_doctor_reports(run: Path) -> None:
    report = json.loads(ok("doctor", "--json"))
    assert report["faiss"] == faiss.__version__ and "simd" in report


def test_a_folder_of_odd_images_goes_the_whole_way(photos: Path, work: Path) -> None:
    run, bundle = work / "photo-run", work / "photo-bundle"
    result = call("train", "--data", photos, "--out", run, *QUICK[:6], "--batch-size", 16, "--bits", 16)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("broken.jpg") == 1 and "1 of 41 images cannot be read" in result.stderr
    manifest = json.loads(ok("export-index", run, "--data", photos, "--out", bundle, "--json"))
    assert manifest["counts"] == {"items": 40, "source_items": 41, "unreadable": 1}
    assert manifest["verification"]["top_k_agreement"] == 1
    found = json.loads(ok("evaluate", bundle, "--queries", photos, "-k", 5, "--json"))
    assert found["skipped_queries"] == 1 and found["map"] > 0.8  # brightness alone tells them apart
    assert "broken.jpg" in fails("search", bundle, photos / "dark" / "broken.jpg")


@pytest.fixture(scope="module")
def feature_run(work: Path) -> Path:
    """A run on features, work/x.npy, of width 24."""
    np.save(work / "x.npy", np.random.default_rng(0).normal(size=(600, 24)).astype(np.float32))
    ok("train", "--data", work / "x.npy", "--out", work / "feature-run", "--epochs", 2, "--batch-size", 128)
    return work / "feature-run"


def test_features_go_the_whole_way(work: Path, feature_run: Path) -> None:
    x = np.load(work / "x.npy")
    ok("export-index", feature_run, "--data", work / "x.npy", "--out", work / "feature-bundle")
    encoder = load_encoder(work / "feature-bundle")
    index = faiss.read_index(str(work / "feature-bundle" / "index.faiss"))
    assert index.search(encoder.encode(x[:3]), 5)[1].shape == (3, 5)


# --- wrong input: one line, exit 1 or 2, nothing left behind


def test_wrong_usage_is_exit_2() -> None:
    assert call("train").exit_code == 2
    assert call("serch").exit_code == 2
    assert call("search", "x").exit_code == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--preset", "cifar10"), "unknown preset"),
        (("--backbone", "resnet5"), "did you mean"),
        (("--bits", "36", "--nbits", "8"), "multiple of 8"),
        (("--nbits", "5"), "nbits"),
        (("--dim", "30"), "not divisible by M=4"),
        (("--set", "temprature=0.4"), "unknown setting"),
        (("--set", "temperature=hot"), "temperature"),
        (("--batch-size", "5000"), "fewer"),
        (("--device", "cuda:99"), "not available"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--weights", "nowhere.pth", "--backbone", "resnet18"), "nowhere.pth"),
    ],
)
def test_train_refuses_in_one_line(tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    arguments = [*QUICK, *more]
    assert says in fails("train", "--data", "digits", "--out", tmp_path / "run", *arguments)
    assert not any(tmp_path.iterdir())


def test_train_refuses_bad_data(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no image")
    (tmp_path / "bad").mkdir()
    for i in range(4):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"nothing")
    bad = np.ones((300, 8), np.float32)
    bad[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    before = sorted(tmp_path.rglob("*"))
    for data, says in (
        ("nowhere", "nowhere"),
        (tmp_path / "empty", "empty"),
        (tmp_path / "text", "image"),
        (tmp_path / "nan.npy", "NaN"),
    ):
        assert says in fails("train", "--data", data, "--out", out, *QUICK, "--batch-size", 4)
    assert "no readable image" in fails("train", "--data", tmp_path / "bad", "--out", out, *QUICK, "--batch-size", 4)
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_output_is_refused(run: Path, bundle: Path) -> None:
    assert "exists" in fails("train", "--data", "digits", "--out", run, *QUICK)
    assert "exists" in fails("export-index", run, "--data", "digits", "--out", bundle)
    assert "exists" in fails("encode", run, "--data", "digits", "--out", bundle / "items.h5")


def test_output_that_cannot_be_written(run: Path, work: Path) -> None:
    (work / "file").write_text("")
    for arguments in (
        ("train", "--data", "digits", "--out", work / "file" / "run", *QUICK),
        ("export-index", run, "--data", "digits", "--out", work / "file" / "bundle"),
        ("encode", run, "--data", "digits", "--out", work / "file" / "codes.h5"),
    ):
        assert "cannot write" in fails(*arguments)


def test_k_out_of_range(bundle: Path, digit_image: Path) -> None:
    for k in (0, -3, 1501):
        assert "out of range" in fails("search", bundle, digit_image, "-k", k)
        assert "out of range" in fails("evaluate", bundle, "--queries", "digits", "-k", k)


def test_search_names_a_bad_query(bundle: Path, work: Path) -> None:
    (work / "text.jpg").write_text("hello")
    assert "nowhere.jpg" in fails("search", bundle, "nowhere.jpg")
    assert "text.jpg" in fails("search", bundle, work / "text.jpg")


def test_not_a_run_not_a_bundle(work: Path, digit_image: Path) -> None:
    assert "not a run" in fails("export-index", work, "--data", "digits", "--out", work / "other")
    assert "not a bundle" in fails("search", work, digit_image)
    assert "does not exist" in fails("info", work / "nowhere")


def test_features_of_another_width(work: Path, run: Path, feature_run: Path) -> None:
    np.save(work / "wide.npy", np.ones((300, 25), np.float32))
    assert "takes images" in fails("encode", run, "--data", work / "wide.npy", "--out", work / "wide.h5")
    message = fails("encode", feature_run, "--data", work / "wide.npy", "--out", work / "wide.h5")
    assert "width 25" in message and "24" in message
    assert not (work / "wide.h5").exists()


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "broken"))


def test_altered_bundles_are_refused(broken: Path, digit_image: Path) -> None:
    index = broken / "index.faiss"
    whole = index.read_bytes()
    index.write_bytes(whole[:-100])
    assert "index.faiss" in fails("search", broken, digit_image)
    assert "index.faiss" in fails("evaluate", broken, "--queries", "digits")
    fails("info", index)
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
    assert "newer" in fails("info", broken)
    path.write_text(path.read_text()[:50])
    assert "damaged" in fails("search", broken, digit_image)
    for wrong in ([], {"format": "1"}, {"format": 1}, {"format": 1, "files": {}}):
        path.write_text(json.dumps(wrong))
        fails("search", broken, digit_image)


def test_damaged_runs_are_refused(run: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "last.pt", "config.json"):
        copy = Path(shutil.copytree(run, tmp_path / name / "run"))
        (copy / name).write_bytes((copy / name).read_bytes()[:200])
        assert name in fails("export-index", copy, "--data", "digits", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.glob("*.partial"))


def test_index_kinds_that_do_not_fit(run: Path, work: Path) -> None:
    assert "8" in fails("export-index", run, "--data", "digits", "--out", work / "fs", "--index", "pqfs")
    assert "pq" in fails("export-index", run, "--data", "digits", "--out", work / "fs", "--index", "hnsw")
    assert not (work / "fs").exists()
