"""Single items removed from a bundle, by id or by path: all of what is named, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mecoq_faiss import export_index, open_bundle, remove
from mecoq_faiss.storage.work_folder import WorkFolder
from tests.jobs.living import content, ids_of


def test_items_are_removed_by_id_and_by_path(start: Path, living: Path) -> None:
    bundle = living / "bundle"
    export_index(start / "run-8", living / "photos", bundle)
    before = ids_of(bundle)
    with open_bundle(bundle) as opened:
        with pytest.raises(ValueError, match="no item of id 999"):
            opened.remove([before["a/000.png"], 999])
        assert len(opened) == 60 and opened.remove([before["a/000.png"]]) == {"removed": 1, "items": 59}
        assert len(opened) == 59
    assert remove(bundle, paths=["a/002.png", "b/003.png"]) == {"removed": 2, "items": 57}
    del before["a/000.png"], before["a/002.png"], before["b/003.png"]
    assert ids_of(bundle) == before


def test_what_is_wrong_removes_nothing(start: Path, living: Path) -> None:
    bundle = living / "bundle"
    export_index(start / "run-8", living / "photos", bundle)
    with pytest.raises(ValueError, match=r"has no item 'a/x\.png'"):
        remove(bundle, paths=["a/000.png", "a/x.png"])
    with pytest.raises(ValueError, match="one of the two"):
        remove(bundle)
    with pytest.raises(ValueError, match=r"give \(m,\) integers"):
        remove(bundle, [0.5])
    with pytest.raises(ValueError, match="nothing would be left"):
        remove(bundle, list(ids_of(bundle).values()))
    assert len(content(bundle)) == 60 and sorted(path.name for path in living.iterdir()) == ["bundle", "photos"]


def test_removed_but_stopped_before_its_folder_was_gone(
    start: Path, living: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = living / "bundle"
    export_index(start / "run-8", living / "photos", bundle)

    def stopped(_: WorkFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WorkFolder, "remove", stopped)
        remove(bundle, paths=["a/000.png"])
    assert (living / "bundle.update").exists()
    with pytest.raises(ValueError, match="has no item"):
        remove(bundle, paths=["a/000.png"])
    assert sorted(path.name for path in living.iterdir()) == ["bundle", "photos"]
