"""Every command as a user types it, on digits and on a folder of images; then wrong input."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mecoq_faiss import load_encoder
from mecoq_faiss.index import KINDS
from mecoq_faiss.presets import PRESETS
from mecoq_faiss.training import start
from mecoq_faiss.training.run_folder import RunFolder
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
    from mecoq_faiss.data.sources import ImageSource, open_source

    path = work / "query.png"
    source = open_source("digits", "queries")
    assert isinstance(source, ImageSource)
    source.open(0).save(path)
    return path


def test_every_command_has_help() -> None:
    assert all(name in ok("--help") for name in COMMANDS)
    for name in COMMANDS:
        assert "Usage:" in ok(name, "--help")
    assert "Eq. 18" in ok("evaluate", "--help") and "relevant items found" in " ".join(ok("compare", "--help").split())


def test_train_writes_a_run(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "last.pt", "metrics.jsonl", "model.safetensors", "split.json"}
    split = json.loads((run / "split.json").read_text())
    assert split["protocol"]["name"] == "digits" and len(split["paths"]) == 1500


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
    D, I = index.search(encoder.encode(x[:3]), 5)
    np.save(work / "queries.npy", x[:2])
    with h5py.File(work / "queries.h5", "w") as file:
        file["features"] = x[2:3]
    queries = work / "queries.npy", work / "queries.h5"
    found = json.loads(ok("search", work / "feature-bundle", *queries, "-k", 5, "--json"))
    assert [query["query"] for query in found] == [f"{queries[0]}:0", f"{queries[0]}:1", f"{queries[1]}:0"]
    assert [[hit["row"] for hit in query["hits"]] for query in found] == I.tolist()
    np.testing.assert_allclose([[hit["score"] for hit in query["hits"]] for query in found], D, atol=1e-5)
    table = ok("search", work / "feature-bundle", queries[0], "-k", 5).splitlines()
    assert len(table) == 2 * 6 and table[6] == f"{queries[0]}:1" and table[7].split()[0] == "1"


# --- wrong input: one line, exit 1 or 2, nothing left behind


def test_info_lists_what_there_is_to_choose_from() -> None:
    assert json.loads(ok("info", "--presets", "--json")).keys() == PRESETS.keys()
    assert tuple(json.loads(ok("info", "--kinds", "--json"))) == KINDS
    lines = ok("info", "--presets").splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert "vgg16 at 224 px (2 layers learn), D=48, temperature 0.35" in lines[list(PRESETS).index("cifar10-ii-32")]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_does_not_wait_for_torch(command: str) -> None:
    code = (
        "import sys\nfrom mecoq_faiss_cli.main import main\n"
        f"try:\n    main({[command, '--help'] if command else ['--help']})\n"
        "finally:\n    print(*sorted({'torch', 'faiss', 'numpy'} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Usage:" in done.stdout and done.stderr.strip() == "", done.stderr


def test_digits_need_no_options(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, small, in views that only crop; what is said explicitly wins."""
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("asked the network"))
    result = call("train", "--data", "digits", "--out", work / "digits", "--epochs", 1)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("digits: ")]
    assert "backbone=pixels, image_size=8, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0 unless told otherwise" in line
    model, settings = RunFolder(work / "digits").read_config()
    assert (model.backbone, model.image_size, model.bits, model.D) == ("pixels", 8, 32, 64)
    assert (settings.flip, settings.gray, settings.jitter_p, settings.blur) == (0, 0, 0, 0)
    assert (settings.batch_size, settings.cached_views) == (512, 40)
    more = ("--image-size", 6, "--set", "flip=0.5", "--views", 2, "--bits", 16)
    ok("train", "--data", "digits#train", "--out", work / "digits-6", "--epochs", 1, *more)
    model, settings = RunFolder(work / "digits-6").read_config()
    assert (model.backbone, model.image_size, model.M) == ("pixels", 6, 2)
    assert (settings.flip, settings.gray, settings.cached_views) == (0.5, 0, 2)


def test_few_images_need_no_options(photos: Path, work: Path) -> None:
    """41 of them, fewer than a batch, than the cut-off, than the results of a search."""
    run, bundle = work / "few-run", work / "few-bundle"
    few = ("--backbone", "pixels", "--image-size", 8, "--epochs", 1)
    result = call("train", "--data", photos, "--out", run, *few, "--views", 2)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("batch size 20, half of the images; --batch-size changes it") == 1
    assert RunFolder(run).read_config()[1].batch_size == 20
    ok("export-index", run, "--data", photos / "light", "--out", bundle)
    found = json.loads(ok("evaluate", run, "--queries", photos, "--database", photos, "--json"))
    assert (found["k"], found["items"]) == (40, 40)
    query = next((photos / "light").glob("*.png"))
    assert len(json.loads(ok("search", bundle, query, "--json"))[0]["hits"]) == 10
    (work / "three").mkdir()
    for path in sorted((photos / "light").glob("*.png"))[:3]:
        shutil.copy(path, work / "three")
    ok("export-index", run, "--data", work / "three", "--out", work / "three-bundle")
    assert len(json.loads(ok("search", work / "three-bundle", query, "--json"))[0]["hits"]) == 3
    assert json.loads(ok("tune", work / "three-bundle", "--queries", work / "three", "--json"))["k"] == 3
    for command in (("search", work / "three-bundle", query), ("tune", work / "three-bundle", "--queries", photos)):
        assert "k=10 is out of range" in fails(*command, "-k", 10)
    assert "k=1000 is out of range" in fails("evaluate", run, "--queries", photos, "--database", photos, "-k", 1000)
    again = fails("train", "--data", photos, "--out", work / "none", *few, "--batch-size", 512)
    assert "fewer than one batch of 512: give more images or a smaller --batch-size" in again


def test_a_budget_chooses_the_views(photos: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("train", "--data", photos, "--backbone", "pixels", "--image-size", 8, "--epochs", 1)
    monkeypatch.setattr(start, "forward_rate", lambda *a: 10.0)  # 41 images: 20 s for 5 views of each
    for time, views in (("20.5s", 5), ("0.4m", 5), ("1s", 2), ("9h", 40), ("1h --views 3", 3)):
        out = work / f"budget-{time}"
        ok(*quick, "--out", out, "--budget", *time.split())
        assert RunFolder(out).read_config()[1].cached_views == views
    ok(*quick, "--out", work / "paper", "--preset", "nuswide-16", "--batch-size", 16, "--views", 2)
    assert RunFolder(work / "paper").read_config()[1].view_cache  # which the preset has not
    never = fails(*quick, "--out", work / "fresh", "--budget", "1m", "--no-view-cache")
    assert "leave --budget out" in never and not (work / "fresh").exists()
    assert "--budget" in ok("train", "--help") and "TIME" in ok("train", "--help")


def test_wrong_usage_is_exit_2() -> None:
    assert call("train").exit_code == 2
    assert call("serch").exit_code == 2
    assert call("search", "x").exit_code == 2
    train = ("train", "--data", "digits", "--out", "nowhere/run")
    assert "'cifar10-ii-32'" in fails(*train, "--preset", "cifar10", code=2)
    for wrong in ("30", "m", "-3m", "0s", "half an hour", "1e3s", "3d", "nanm"):
        assert "90s, 30m or 2h" in fails(*train, "--budget", wrong, code=2)
    for nothing_or_both in ((), ("x", "--presets"), ("--presets", "--kinds")):
        assert "one of them" in fails("info", *nothing_or_both, code=2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
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


def test_search_names_queries_of_another_kind(
    bundle: Path, work: Path, digit_image: Path, feature_run: Path, tmp_path: Path
) -> None:
    ok("export-index", feature_run, "--data", work / "x.npy", "--out", tmp_path / "features")
    assert "x.npy is a file of features: the model takes images" in fails("search", bundle, work / "x.npy")
    assert "query.png: the model takes features" in fails("search", tmp_path / "features", digit_image)
    for either in (bundle, tmp_path / "features"):
        assert f"{tmp_path} is a folder" in fails("search", either, tmp_path)


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
    wrong: object
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
    of_six = ("export-index", run, "--data", "digits", "--out", work / "fs", "--index", "hnsw")
    assert all(f"'{kind}'" in fails(*of_six, code=2) for kind in KINDS)
    assert not (work / "fs").exists()
