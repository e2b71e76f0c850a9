"""The parts of a bundle: which items they have, and that they merge to the same bundle again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, add, export_index, merge, remove, split, train, verify
from mecoq_faiss.bundle.folder import pinned, read_manifest
from mecoq_faiss.bundle.items import items_in


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """31 pictures in the classes a, b and c, and a run."""
    folder = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(0)
    for i in range(31):
        path = folder / "photos" / "abc"[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=16)
    train(folder / "photos", folder / "run", model, TrainConfig(epochs=1, batch_size=20, cached_views=2))
    return folder


def rows(bundle: Path) -> list[tuple[int, str, bytes, str | None]]:
    """Id, path, code and class of every item."""
    with pinned(bundle) as files, items_in(files) as items:
        labels, names = items.labels()
        classes = [None] * len(items) if labels is None else [names[label] for label in labels]
        codes = [code.tobytes() for code in items.codes]
        return list(zip(items.ids.tolist(), items.all_paths().tolist(), codes, classes, strict=True))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"), [("pq", {}), ("ivfpq", {"nlist": 4, "nprobe": 2}), ("ivfpq-all", {"nlist": 2})]
)
def test_parts_merge_to_the_same_bundle(
    kind: str, options: dict[str, Any], own: bool, start: Path, tmp_path: Path
) -> None:
    bundle, parts = tmp_path / "bundle", tmp_path / "parts"
    ids = np.arange(31)[::-1] * 7 if own else None
    export_index(start / "run", start / "photos", bundle, kind=kind, ids=ids, **options)
    assert split(bundle, parts, 3) == {"part-1": 11, "part-2": 10, "part-3": 10}
    whole = rows(bundle)
    assert [rows(parts / f"part-{i}") for i in (1, 2, 3)] == [whole[:11], whole[11:21], whole[21:]]
    assert [verify(parts / f"part-{i}")["items"] for i in (1, 2, 3)] == [11, 10, 10]
    assert {read_manifest(path)["next_id"] for path in parts.iterdir()} == {211 if own else 31}
    merge(sorted(parts.iterdir()), tmp_path / "again")
    assert rows(tmp_path / "again") == whole
    assert (tmp_path / "again" / "index.faiss").read_bytes() == (bundle / "index.faiss").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "bundle", "parts"]


def test_by_class_each_item_lies_in_its_own(start: Path, tmp_path: Path) -> None:
    """Of a changed bundle: an item in a later segment, an item removed."""
    bundle = tmp_path / "bundle"
    export_index(start / "run", start / "photos", bundle)
    extra = tmp_path / "photos" / "d" / "x.png"
    extra.parent.mkdir(parents=True)
    extra.write_bytes((start / "photos" / "a" / "00.png").read_bytes())
    add(bundle, [extra], root=tmp_path / "photos")
    remove(bundle, paths=["b/01.png"])
    assert split(bundle, tmp_path / "parts", by_class=True) == {"a": 11, "b": 9, "c": 10, "d": 1}
    for name in "abcd":
        assert rows(tmp_path / "parts" / name) == [row for row in rows(bundle) if row[3] == name]
    merge(sorted((tmp_path / "parts").iterdir()), tmp_path / "again")
    assert sorted(rows(tmp_path / "again")) == sorted(rows(bundle))


def test_lists_are_no_more_than_items(start: Path, tmp_path: Path) -> None:
    export_index(start / "run", start / "photos", tmp_path / "bundle", kind="ivfpq", nlist=20, nprobe=18)
    split(tmp_path / "bundle", tmp_path / "parts", 2)
    said = [read_manifest(tmp_path / "parts" / f"part-{i}") for i in (1, 2)]
    assert [(manifest["nlist"], manifest["nprobe"]) for manifest in said] == [(16, 16), (15, 15)]


def test_what_is_wrong_is_one_line(start: Path, tmp_path: Path) -> None:
    bundle, parts = tmp_path / "bundle", tmp_path / "parts"
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (start / "photos").rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    export_index(start / "run", flat, bundle)
    for options, says in (
        ({}, "one of the two"),
        ({"parts": 2, "by_class": True}, "one of the two"),
        ({"parts": 0}, "choose 1 to 31"),
        ({"parts": 32}, "choose 1 to 31"),
        ({"by_class": True}, "has no classes"),
    ):
        with pytest.raises(ValueError, match=says):
            split(bundle, parts, **options)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="choose another --out-dir"):
        split(bundle, flat, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "flat"]


@pytest.mark.parametrize("name", ["..", "", "a/b", "a\0b", "con:"])
def test_a_class_whose_name_no_folder_can_have(name: str) -> None:
    from mecoq_faiss.jobs.split import _classes

    class Named:
        def labels(self) -> tuple[np.ndarray, list[str]]:
            return np.array([0, 1, 1]), ["good", name]

    with pytest.raises(ValueError, match="no name that a folder can have"):
        _classes(Named())  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", "key.json")])
def test_what_a_kill_left_of_a_finished_split_goes(left: tuple[str, ...], start: Path, tmp_path: Path) -> None:
    bundle, partial = tmp_path / "bundle", tmp_path / "parts.partial"
    export_index(start / "run", start / "photos", bundle)
    split(bundle, tmp_path / "parts", 2)
    partial.mkdir()
    for name in left:
        key = {"mecoq-faiss": {"format": 1, "split": str(bundle)}}
        (partial / name).write_text(json.dumps(key) if name == "key.json" else "")
    with pytest.raises(FileExistsError, match="choose another --out-dir"):
        split(bundle, tmp_path / "parts", 2)
    assert not partial.exists()
