"""A merged bundle's index is, byte for byte, that of a direct build; what does not belong together is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, export_index, merge, open_bundle, remove, train, update, verify
from mecoq_faiss.bundle.folder import pinned, read_items
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.index import build_index, load_index, read_codebooks, save_index
from mecoq_faiss.storage.hdf5 import damaged_dataset


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of 23 and 14 pictures, in classes a, b and b, c, and runs of 8 and 4 bits."""
    folder = tmp_path_factory.mktemp("merge")
    rng = np.random.default_rng(0)
    for name, n, classes in (("one", 23, "ab"), ("two", 14, "bc")):
        for i in range(n):
            path = folder / name / classes[i % 2] / f"{name}-{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    for nbits in (8, 4):
        model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=16, nbits=nbits)
        train(folder / "one", folder / f"run-{nbits}", model, TrainConfig(epochs=1, batch_size=20, cached_views=2))
    return folder


def table(bundle: Path) -> dict[str, tuple[int, bytes, bytes, str]]:
    """Path -> id, code, content and class of every item."""
    with pinned(bundle) as files, items_in(files) as items:
        labels, names = items.labels()
        hashes = items.column("sha256")
        assert labels is not None and hashes is not None
        rows = zip(items.all_paths().tolist(), items.ids.tolist(), items.codes, hashes, labels.tolist(), strict=True)
        return {path: (i, code.tobytes(), content.tobytes(), names[label]) for path, i, code, content, label in rows}


KINDS: list[tuple[str, int, dict[str, Any]]] = [
    ("pq", 8, {}),
    ("pqfs", 4, {"refine": True, "k_factor": 2.0}),
    ("ivfpq", 8, {"nlist": 4, "nprobe": 3}),
    ("ivfpqfs", 4, {"nlist": 3, "nprobe": 3}),
    ("ivfpq-all", 8, {"nlist": 2}),
]


@pytest.mark.parametrize(("kind", "nbits", "options"), KINDS)
def test_the_index_is_that_of_a_direct_build(
    kind: str, nbits: int, options: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    one, two, whole = tmp_path / "one", tmp_path / "two", tmp_path / "whole"
    ids = np.arange(37) * 3 + 1
    export_index(start / f"run-{nbits}", start / "one", one, kind=kind, ids=ids[:23], **options)
    export_index(start / f"run-{nbits}", start / "two", two, kind=kind, ids=ids[23:], **options)
    manifest = merge([one, two], whole)
    codes = np.concatenate([read_items(bundle / "items.h5")["codes"] for bundle in (one, two)])
    codebooks = read_codebooks(load_index(one / "index.faiss"))
    save_index(build_index(codebooks, codes, kind, ids=ids, **options), tmp_path / "direct.faiss")
    assert (whole / "index.faiss").read_bytes() == (tmp_path / "direct.faiss").read_bytes()
    assert table(whole) == table(one) | table(two) and list(table(whole)) == [*table(one), *table(two)]
    assert damaged_dataset(whole / "items.h5") is None and verify(whole)["items"] == 37
    assert manifest["counts"] == {"items": 37} and manifest["next_id"] == 110 and manifest["kind"] == kind
    for name in ("config.json", "model.safetensors"):
        assert (whole / "encoder" / name).read_bytes() == (one / "encoder" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.faiss", "one", "two", "whole"]


def test_updated_bundles_are_merged_and_updated_again(start: Path, tmp_path: Path) -> None:
    """Segments, removed items and an id that was given once and is not given again."""
    one, two, photos = tmp_path / "one", tmp_path / "two", tmp_path / "photos"
    shutil.copytree(start / "one", photos)
    export_index(start / "run-8", photos, one)
    (photos / "a" / "new.png").write_bytes((start / "two" / "c" / "two-01.png").read_bytes())
    update(one, photos)
    remove(one, paths=["a/new.png", "a/one-00.png"])
    export_index(start / "run-8", start / "two", two, ids=np.arange(100, 114))
    with pytest.raises(ValueError, match=r"use of own ids of .*two is True, of .*one False"):
        merge([one, two], tmp_path / "whole")
    shutil.rmtree(two)
    export_index(start / "run-8", start / "two", two)
    manifest = merge([one, two], tmp_path / "whole", new_ids=True)
    assert manifest["counts"]["items"] == 36 and [row[0] for row in table(tmp_path / "whole").values()] == [*range(36)]
    expected = {path: row[1:] for path, row in (table(one) | table(two)).items()}
    assert {path: row[1:] for path, row in table(tmp_path / "whole").items()} == expected
    shutil.copytree(start / "two", photos, dirs_exist_ok=True)
    done = update(tmp_path / "whole", photos)
    assert (done["added"], done["unchanged"]) == (2, 36)
    with open_bundle(tmp_path / "whole") as opened:
        [hits] = opened.search([photos / "c" / "two-01.png"], k=38)
        assert {"c/two-01.png", "a/new.png"} <= {hit.path for hit in hits if hit.score > hits[0].score - 1e-4}


def test_what_does_not_belong_together_is_refused(start: Path, tmp_path: Path) -> None:
    one, out = tmp_path / "one", tmp_path / "whole"
    export_index(start / "run-8", start / "one", one)

    def refused(*bundles: Path, says: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=says):
            merge(bundles, out, **options)
        assert not out.exists() and not out.with_name("whole.partial").exists()

    refused(one, says="two bundles or more")
    refused(one, one, says=r"'a/one-00\.png' is an item of .*one and of .*one: remove it")
    export_index(start / "run-8", start / "two", tmp_path / "two")
    refused(one, tmp_path / "two", says=r"id 0 is an item's of .*one and of .*two: give --new-ids")
    export_index(start / "run-4", start / "two", tmp_path / "four")
    refused(one, tmp_path / "four", says=r"four is of another model than .*one")
    export_index(start / "run-8", start / "two", tmp_path / "ivfpq-all", kind="ivfpq-all")
    refused(one, tmp_path / "ivfpq-all", says=r"the kind of .*all is ivfpq-all, of .*one pq")
    for name, nlist in (("one", 4), ("two", 3)):
        export_index(start / "run-8", start / name, tmp_path / f"ivf-{name}", kind="ivfpq", nlist=nlist, nprobe=2)
    refused(tmp_path / "ivf-one", tmp_path / "ivf-two", says=r"nlist of .*ivf-two is 3, of .*ivf-one 4: give --nlist")
    merged = merge([tmp_path / "ivf-one", tmp_path / "ivf-two"], out, new_ids=True, nlist=5)
    assert (merged["nlist"], merged["nprobe"]) == (5, 2)
    with pytest.raises(FileExistsError, match="choose another --out"):
        merge([one, tmp_path / "two"], out)


def test_labels_of_several_classes_are_joined(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (30, 3)).astype(np.uint8)
    for name, rows in (("one", slice(0, 20)), ("two", slice(20, 30))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = rng.normal(size=(30, 12)).astype(np.float32)[rows]
            file["labels"] = labels[rows]
            file["paths"] = [f"item-{i}" for i in range(30)][rows]
    model = ModelConfig(backbone="features", weights="none", feature_dim=12, D=16, M=2, hidden=16)
    train(tmp_path / "one.h5", tmp_path / "run", model, TrainConfig(epochs=1, batch_size=10))
    for name in ("one", "two"):
        export_index(tmp_path / "run", tmp_path / f"{name}.h5", tmp_path / name)
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole", new_ids=True)
    np.testing.assert_array_equal(read_items(tmp_path / "whole" / "items.h5")["labels"], labels)


def test_what_a_kill_left_of_a_finished_merge_goes(start: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_index(start / "run-8", start / name, tmp_path / name)
    bundles = [tmp_path / "one", tmp_path / "two"]
    manifest = merge(bundles, tmp_path / "whole", new_ids=True)
    marker = tmp_path / "whole" / "key.json"
    marker.write_text(json.dumps({"mecoq-faiss": {"format": 1, "merge": [str(bundle) for bundle in bundles]}}))
    assert merge(bundles, tmp_path / "whole", new_ids=True) == manifest
    assert not marker.exists()
    with pytest.raises(FileExistsError, match="choose another --out"):
        merge(bundles, tmp_path / "whole", new_ids=True)
