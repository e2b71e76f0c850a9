"""Duplicates: known ones are found, others are not; groups equal a brute-force search; pieces of any size."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mecoq_faiss import ModelConfig, TrainConfig, dedup, export_index, load_encoder, train
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.index import load_index, read_codebooks
from mecoq_faiss.index.codes import decode_codes, sum_codes


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 230, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures; of four of them a copy, a JPEG, a brighter one, and all three."""
    folder = tmp_path_factory.mktemp("dedup")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(40):
        picture(i).save(photos / f"{i:02}.png")
    for i, endings in ((3, "c"), (5, "j"), (7, "b"), (9, "cjb")):
        if "c" in endings:
            shutil.copy(photos / f"{i:02}.png", photos / f"{i:02}-copy.png")
        if "j" in endings:
            picture(i).save(photos / f"{i:02}-again.jpg", quality=90)
        if "b" in endings:
            ImageEnhance.Brightness(picture(i)).enhance(1.03).save(photos / f"{i:02}-bright.png")
    model = ModelConfig(backbone="pixels", image_size=8, M=4, D=32, hidden=64)
    train(photos, folder / "run", model, TrainConfig(epochs=3, batch_size=23, cached_views=2))
    export_index(folder / "run", photos, folder / "bundle")
    return folder


@pytest.fixture
def own(start: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(start, tmp_path / "own")
    return tmp_path / "own"


KNOWN = [
    {"03.png", "03-copy.png"},
    {"05.png", "05-again.jpg"},
    {"07.png", "07-bright.png"},
    {"09.png", "09-copy.png", "09-again.jpg", "09-bright.png"},
]


def test_known_duplicates_are_found_and_others_are_not(start: Path) -> None:
    groups = dedup(start / "bundle", start / "photos", threshold=3.2)
    assert [{item.path for item in group} for group in groups] == KNOWN
    encoder = load_encoder(start / "bundle")
    with pinned(start / "bundle") as files:
        ids = dict(zip(items_in(files).all_paths().tolist(), items_in(files).ids.tolist(), strict=True))
    for group in groups:
        assert [item.id for item in group] == sorted(ids[item.path] for item in group)
        z = encoder.encode([start / "photos" / item.path for item in group])
        np.testing.assert_allclose([item.score for item in group], z @ z[0], atol=1e-5)
        content = [hashlib.sha256((start / "photos" / item.path).read_bytes()).digest() for item in group]
        assert [item.exact for item in group] == [digest == content[0] for digest in content]


def test_pieces_of_any_size_give_the_same_groups(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mecoq_faiss.bundle.duplicates as duplicates

    whole = dedup(start / "bundle", start / "photos", 3.2)
    monkeypatch.setattr(duplicates, "EMBEDDED", 3)
    monkeypatch.setattr(duplicates, "SCORES", 5)
    pieces = dedup(start / "bundle", start / "photos", 3.2)
    assert [[item[:2] for item in group] for group in pieces] == [[item[:2] for item in group] for group in whole]


def test_the_default_is_the_mean_of_confirmed_pairs(start: Path) -> None:
    assert dedup(start / "bundle") == dedup(start / "bundle", threshold=0.98 * 4) != dedup(start / "bundle", None, 2)


def test_without_images_codes_alone_decide(start: Path) -> None:
    groups = dedup(start / "bundle", threshold=4)
    with pinned(start / "bundle") as files:
        items = items_in(files)
        code = dict(zip(items.all_paths().tolist(), items.codes.tolist(), strict=True))
        codebooks = read_codebooks(load_index(files.file("index.faiss")))
    expected: dict[tuple, set[str]] = {}
    for path, row in code.items():
        expected.setdefault(tuple(row), set()).add(path)
    assert sorted(sorted(item.path for item in group) for group in groups) == sorted(
        sorted(paths) for paths in expected.values() if len(paths) > 1
    )
    for group in groups:
        x = decode_codes(codebooks, np.array([code[item.path] for item in group], np.uint8))
        np.testing.assert_allclose([item.score for item in group], x @ x[0], atol=1e-6)


def test_what_is_not_there_or_not_readable_is_not_confirmed(own: Path) -> None:
    (own / "photos" / "05-again.jpg").write_bytes(b"no image")
    (own / "photos" / "09-bright.png").unlink()
    (own / "photos" / "03-copy.png").unlink()
    groups = dedup(own / "bundle", own / "photos", threshold=3.2)
    assert [{item.path for item in group} for group in groups] == [KNOWN[0], KNOWN[2], KNOWN[3] - {"09-bright.png"}]


def test_features_confirm_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    x[40], x[50] = x[4], x[6] * 1.001
    np.save(tmp_path / "f.npy", x)
    model = ModelConfig(backbone="features", weights="none", feature_dim=12, D=32, M=4, hidden=32)
    train(tmp_path / "f.npy", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=20))
    export_index(tmp_path / "run", tmp_path / "f.npy", tmp_path / "bundle")
    groups = dedup(tmp_path / "bundle", tmp_path / "f.npy", cosine=0.9999)
    assert [[(item.id, item.exact) for item in group] for group in groups] == [
        [(4, True), (40, True)],
        [(6, True), (50, False)],
    ]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_additive_codes_are_compared_by_the_cosine_of_their_sums(metric: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    x[:, 0] += 3
    x[40], x[50], x[60] = x[4], x[6] * 1.001, x[8] + 0.3
    np.save(tmp_path / "f.npy", x)
    train(tmp_path / "f.npy", tmp_path / "run", preserving(12, metric), TrainConfig(epochs=1, batch_size=50))
    export_index(tmp_path / "run", tmp_path / "f.npy", tmp_path / "bundle")
    confirmed = dedup(tmp_path / "bundle", tmp_path / "f.npy", threshold=0.5, cosine=0.9999)
    assert [[(item.id, item.exact) for item in group] for group in confirmed] == [
        [(4, True), (40, True)],
        [(6, True), (50, False)],
    ]
    assert all(abs(item.score - 1) < 1e-4 for group in confirmed for item in group)
    with pinned(tmp_path / "bundle") as files:
        codes = np.asarray(items_in(files).codes)
    sums = sum_codes(read_codebooks(load_index(tmp_path / "bundle" / "index.faiss")), codes)
    sums = sums[:, :-1] if metric == "l2" else sums
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    by_codes = dedup(tmp_path / "bundle", threshold=0.97)
    assert len(by_codes) > 2
    for group in by_codes:
        rows = [item.id for item in group]
        np.testing.assert_allclose([item.score for item in group], sums[rows] @ sums[rows[0]], atol=1e-5)
    joined = {item.id for group in by_codes for item in group}
    near = sums @ sums.T - 2 * np.eye(len(x)) >= 0.97
    assert joined == set(np.flatnonzero(near.any(axis=1)))
    assert dedup(tmp_path / "bundle") == dedup(tmp_path / "bundle", threshold=0.98)
    with pytest.raises(ValueError, match="scores lie between -1 and 1"):
        dedup(tmp_path / "bundle", threshold=1.5)


def preserving(width: int, metric: str) -> ModelConfig:
    return ModelConfig(
        backbone="features", weights="none", feature_dim=width, D=16, M=2, nbits=8, codes="additive", metric=metric,
        projection="linear", standardize=False,
    )  # fmt: skip


def test_what_is_wrong_is_one_line(start: Path, tmp_path: Path) -> None:
    for threshold in (4.1, -5, float("nan")):
        with pytest.raises(ValueError, match="scores lie between -4 and 4"):
            dedup(start / "bundle", threshold=threshold)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        dedup(start / "bundle", cosine=0)
    (tmp_path / "other").mkdir()
    picture(0).save(tmp_path / "other" / "x.png")
    with pytest.raises(ValueError, match="has no item of the bundle"):
        dedup(start / "bundle", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        dedup(tmp_path / "none")
