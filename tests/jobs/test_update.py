"""A bundle that follows its collection equals a fresh export of what the collection is, up to the order of items."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from mecoq_faiss import (
    ModelConfig,
    TrainConfig,
    evaluate,
    export_index,
    load_encoder,
    open_bundle,
    train,
    tune,
    update,
    verify,
)  # fmt: skip
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.jobs.info import describe
from tests.jobs.living import content, ids_of, picture

KINDS: list[tuple[str, int, dict[str, Any]]] = [
    ("pq", 8, {}),
    ("pqfs", 4, {}),
    ("pqfs", 4, {"refine": True}),
    ("ivfpq", 8, {"nlist": 4, "nprobe": 4}),
    ("ivfpqfs", 4, {"nlist": 4, "nprobe": 4}),
    ("ivfpq-all", 8, {"nlist": 2}),
]


def change(photos: Path) -> None:
    """Three new, one of them in a new class, two removed, one altered, two renamed, one only touched."""
    picture(100).save(photos / "a" / "new.png")
    picture(101).save(photos / "b" / "new.png")
    (photos / "c").mkdir()
    picture(102).save(photos / "c" / "new.png")
    (photos / "a" / "000.png").unlink()
    (photos / "b" / "001.png").unlink()
    picture(103).save(photos / "a" / "002.png")
    (photos / "b" / "003.png").rename(photos / "b" / "renamed.png")
    (photos / "b" / "005.png").rename(photos / "a" / "moved.png")
    os.utime(photos / "a" / "004.png", ns=(1, 1))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("kind", "nbits", "options"), KINDS)
def test_it_equals_a_fresh_export(
    kind: str, nbits: int, options: dict[str, Any], own: bool, start: Path, living: Path
) -> None:
    bundle, photos = living / "bundle", living / "photos"
    ids = np.arange(60) * 10 + 5 if own else None
    export_index(start / f"run-{nbits}", photos, bundle, kind=kind, ids=ids, **options)
    before = ids_of(bundle)
    change(photos)
    done = update(bundle, photos)
    assert done == {
        "added": 3, "altered": 1, "removed": 2, "renamed": 2, "unchanged": 55, "without_hash": 0, "unreadable": 0,
        "items": 61,
        "drift": {
            "new": 4, "retrain": False,
            "evidence": "too few new images to judge whether they fit the codes: 4, 20 are needed",
        },
    }  # fmt: skip
    export_index(start / f"run-{nbits}", photos, living / "fresh", kind=kind, **options)
    assert content(bundle) == content(living / "fresh")
    after = ids_of(bundle)
    assert after["b/renamed.png"] == before["b/003.png"] and after["a/moved.png"] == before["b/005.png"]
    assert all(after[path] == before[path] for path in after.keys() & before.keys() - {"a/002.png"})
    new = {after[path] for path in ("a/new.png", "b/new.png", "c/new.png", "a/002.png")}
    assert min(new) > max(before.values()) and len(new) == 4
    with open_bundle(bundle) as opened:
        for name in ("c/new.png", "a/moved.png", "a/004.png"):
            [hits] = opened.search([photos / name], k=61)
            best = [hit for hit in hits if hit.score > hits[0].score - 1e-4]
            assert name in {hit.path for hit in best} and all(hit.id == after[hit.path] for hit in hits)
        allowed = [after["c/new.png"], after["a/moved.png"]]
        for where in ([*allowed, before["a/000.png"]], "path in ('c/new.png', 'a/moved.png', 'a/000.png')"):
            [hits] = opened.search([photos / "a" / "004.png"], k=9, where=where)
            assert sorted(hit.id for hit in hits) == sorted(allowed), "the removed one is not found"
    assert update(bundle, photos)["unchanged"] == 61  # the touched one is known by its content
    assert not list(living.glob("*.update"))


def test_a_dry_run_changes_nothing(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    whole = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    change(photos)
    assert update(bundle, photos, dry_run=True) | {"unreadable": 0} == update(bundle, photos, dry_run=True)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == whole
    assert sorted(path.name for path in living.iterdir()) == ["bundle", "photos"]


def test_ids_are_never_given_twice_and_many_updates_do_not_pile_up(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    used = set(ids_of(bundle).values())
    for i in range(25):
        picture(200 + i).save(photos / "a" / f"added-{i}.png")
        if i:
            (photos / "a" / f"added-{i - 1}.png").unlink()
        update(bundle, photos)
        (new,) = set(ids_of(bundle).values()) - used if i == 0 else {ids_of(bundle)[f"a/added-{i}.png"]}
        assert new not in used
        used.add(new)
        assert len(read_manifest(bundle)["segments"]) <= 17
    wanted = {"index.faiss", "encoder", "manifest.json", "removed.npy", *read_manifest(bundle)["segments"]}
    assert {path.name for path in bundle.iterdir()} == wanted
    export_index(start / "run-8", photos, living / "fresh")
    assert content(bundle) == content(living / "fresh")
    update(bundle, photos, compact=True)
    assert content(bundle) == content(living / "fresh")
    assert {path.name for path in bundle.iterdir()} == {"index.faiss", "items.h5", "encoder", "manifest.json"}
    assert read_manifest(bundle)["format"] == 1, "an older program reads it again"


def test_a_reader_keeps_the_old_generation(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    with open_bundle(bundle) as opened:
        before = opened.search([photos / "a" / "000.png"])
        query = picture(0)
        change(photos)
        update(bundle, photos)
        assert opened.search([query]) == before
        assert opened.reload() and len(opened) == 61
        assert not opened.reload()


@pytest.mark.parametrize("moment", ["encoded", "written", "proved", "exchanged"])
def test_stopped_at_any_point_it_continues(
    moment: str, start: Path, living: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mecoq_faiss.bundle.living as living_bundle
    import mecoq_faiss.bundle.rewrite as rewrite

    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    before = content(bundle)
    change(photos)

    def stopped_after(function: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> None:
            function(*arguments, **named)
            raise KeyboardInterrupt

        return run

    place, name = {
        "encoded": (living_bundle, "encode_source"),
        "written": (rewrite, "save_index"),
        "proved": (rewrite, "write_manifest"),
        "exchanged": (rewrite, "exchange_folders"),
    }[moment]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopped_after(getattr(place, name)))
        with pytest.raises(KeyboardInterrupt):
            update(bundle, photos)
    if moment != "exchanged":
        assert content(bundle) == before
    update(bundle, photos)
    export_index(start / "run-8", photos, living / "fresh")
    assert content(bundle) == content(living / "fresh")
    assert sorted(path.name for path in living.iterdir()) == ["bundle", "fresh", "photos"]


def test_without_exchange_of_names_it_is_two_renames(
    start: Path, living: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mecoq_faiss.storage.files as files

    monkeypatch.setattr(files, "_renamed_both", lambda one, other: False)
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    change(photos)
    rename, calls = os.rename, []

    def stop_between(old: Path, new: Path) -> None:
        if bundle in (old, new):
            calls.append(new)
            if len(calls) == 2:
                raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stop_between)
        with pytest.raises(KeyboardInterrupt):
            update(bundle, photos)
    assert not bundle.exists()
    assert update(bundle, photos)["items"] == 61
    assert sorted(path.name for path in living.iterdir()) == ["bundle", "photos"]


def test_features_are_followed_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)).astype(np.float32)

    def save(rows: np.ndarray, names: list[str]) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["features"], file["paths"] = rows, names

    names = [f"item-{i}" for i in range(50)]
    save(x, names)
    model = ModelConfig(backbone="features", weights="none", feature_dim=12, D=16, M=2, hidden=16)
    train(tmp_path / "f.h5", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=20))
    export_index(tmp_path / "run", tmp_path / "f.h5", tmp_path / "bundle")
    x = np.concatenate([x[5:], rng.normal(size=(3, 12)).astype(np.float32)])
    x[0] += 1
    save(x, [*names[5:49], "renamed", "n1", "n2", "n3"])
    done = update(tmp_path / "bundle", tmp_path / "f.h5")
    assert (done["added"], done["altered"], done["removed"], done["renamed"], done["unchanged"]) == (3, 1, 5, 1, 43)
    encoder = load_encoder(tmp_path / "bundle")
    D, I = faiss.read_index(str(tmp_path / "bundle" / "index.faiss")).search(encoder.encode(x), 1)
    assert D.shape == (48, 1) and (I < 48).all()


def test_a_bundle_without_hashes_keeps_what_has_the_same_path(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "version_0_1", tmp_path / "old")
    done = update(tmp_path / "old" / "bundle-pq", tmp_path / "old" / "features.npy")
    assert done["unchanged"] == done["without_hash"] == 60 and done["items"] == 60
    x = np.load(tmp_path / "old" / "features.npy")
    np.save(tmp_path / "old" / "features.npy", np.concatenate([x, x[:2] + 1]))
    done = update(tmp_path / "old" / "bundle-pq", tmp_path / "old" / "features.npy")
    assert (done["added"], done["items"]) == (2, 62)


def test_what_is_wrong_is_one_line(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        update(bundle, photos)
    export_index(start / "run-8", photos, bundle)
    np.save(living / "f.npy", np.zeros((30, 4), np.float32))
    with pytest.raises(ValueError, match="holds features"):
        update(bundle, living / "f.npy")
    (living / "bundle.update").mkdir()
    (living / "bundle.update" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        update(bundle, photos)
    assert (living / "bundle.update" / "mine.txt").read_text() == "x" and len(content(bundle)) == 60


def test_unreadable_images_are_told_and_tried_again(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    (photos / "a" / "broken.png").write_bytes(b"no image")
    done = update(bundle, photos)
    assert (done["added"], done["unreadable"], done["items"]) == (0, 1, 60)
    picture(300).save(photos / "a" / "broken.png")
    done = update(bundle, photos)
    assert (done["added"], done["unreadable"], done["items"]) == (1, 0, 61)


def test_an_image_that_cannot_be_compared_by_content_is_named(
    start: Path, living: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    (photos / "a" / "000.png").rename(photos / "a" / "moved.png")

    def failing(source: object, row: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "digest", failing)
        patch.setattr(logging.getLogger("mecoq_faiss"), "propagate", True)
        assert update(bundle, photos, dry_run=True)["added"] == 1
    assert "a/moved.png: not compared by content (Input/output error), taken as new" in caplog.text
    assert update(bundle, photos)["renamed"] == 1


@pytest.fixture
def updated(start: Path, living: Path) -> Path:
    """A bundle of two segments, with removed items."""
    export_index(start / "run-8", living / "photos", living / "bundle")
    change(living / "photos")
    update(living / "bundle", living / "photos")
    assert read_manifest(living / "bundle")["format"] == 2
    return living


def test_every_command_reads_an_updated_bundle(updated: Path, start: Path) -> None:
    bundle, photos = updated / "bundle", updated / "photos"
    export_index(start / "run-8", photos, updated / "fresh")
    assert evaluate(bundle, photos) == pytest.approx(evaluate(updated / "fresh", photos))
    assert verify(bundle)["items"] == 61 and verify(bundle)["files"] == 6
    found = tune(bundle, photos, k=5)
    assert found["items"] == 61 and f"--codes {bundle} " in found["command"]
    export_index(bundle, None, updated / "again", codes=bundle)
    assert content(updated / "again") == content(bundle)
    assert ids_of(updated / "again") == ids_of(bundle)
    assert describe(bundle)["counts"] == {"items": 61}


def test_what_removed_names_is_checked(updated: Path) -> None:
    bundle = updated / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    for wrong in (np.array([3, 2]), np.array([0.5]), np.array([10**6]), np.arange(200)):
        np.save(bundle / "removed.npy", wrong)
        entry = manifest["files"]["removed.npy"]
        data = (bundle / "removed.npy").read_bytes()
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"removed\.npy|does not fit"):
            open_bundle(bundle)


def test_a_manifest_that_forgot_what_was_removed_is_refused(updated: Path, start: Path) -> None:
    manifest = updated / "bundle" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"removed.npy"', '"removet.npy"'))
    with pytest.raises(ValueError, match=r"bundle has 6\d items, its manifest says 61: export or copy it again"):
        export_index(start / "run-8", None, updated / "again", codes=updated / "bundle")
    assert not list(updated.glob("again*"))
    with pytest.raises(ValueError, match=r"index\.faiss does not fit its bundle \(there are 6\d items, the manifest"):
        verify(updated / "bundle")


def test_a_fifo_in_a_file_s_place_is_one_line(start: Path, living: Path) -> None:
    export_index(start / "run-8", living / "photos", living / "bundle")
    for name in ("items.h5", "index.faiss", "encoder/model.safetensors", "manifest.json"):
        file = living / "bundle" / name
        file.rename(living / "kept")
        os.mkfifo(file)
        with pytest.raises(OSError, match=name):
            open_bundle(living / "bundle")
        (living / "kept").rename(file)
