"""The next generation of a bundle: the old one until it is whole, and no more files than it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.bundle import rewrite
from mecoq_faiss.bundle.folder import ITEMS, pinned, read_manifest
from mecoq_faiss.bundle.items import REMOVED, items_in, segment_names
from mecoq_faiss.bundle.living import drop
from mecoq_faiss.bundle.rewrite import ENCODED, PREVIOUS, rewriting
from mecoq_faiss.index import load_index, read_codes
from tests.bundle.hostile import N, old_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle(tmp_path)


def all_files(bundle: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_a_change_that_fails_leaves_nothing_but_what_is_encoded(bundle: Path) -> None:
    whole = all_files(bundle)
    for encoded in (False, True):
        with pytest.raises(KeyError, match="mine"), rewriting(bundle) as work:
            (work / "next").mkdir()
            if encoded:
                (work / ENCODED).write_bytes(b"rows")
            raise KeyError("mine")
        assert work.exists() == encoded and all_files(bundle) == whole
    with rewriting(bundle) as work:
        assert (work / ENCODED).read_bytes() == b"rows" and not (work / "next").exists()
    assert not work.exists()


def test_what_stopped_between_two_names_is_put_back(bundle: Path) -> None:
    whole = all_files(bundle)
    with pytest.raises(KeyError), rewriting(bundle) as work:
        (work / ENCODED).touch()
        raise KeyError
    bundle.rename(work / PREVIOUS)
    with rewriting(bundle):
        assert all_files(bundle) == whole


def test_no_bundle_and_another_s_folder_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), rewriting(tmp_path / "none"):
        raise AssertionError
    (tmp_path / "bundle.update").mkdir()
    (tmp_path / "bundle.update" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"bundle\.update"), rewriting(bundle):
        raise AssertionError
    assert (tmp_path / "bundle.update" / "mine.txt").exists()


@pytest.mark.parametrize(("count", "compacted"), [(1, False), (15, False), (16, True), (N - 1, True)])
def test_few_removed_items_are_listed_many_are_left_out(bundle: Path, count: int, compacted: bool) -> None:
    with pinned(bundle) as files, items_in(files) as items:
        ids, codes = np.array(items.ids), np.array(items.codes)
    drop(bundle, ids[:count], device="cpu")
    manifest = read_manifest(bundle)
    assert segment_names(manifest) == [ITEMS] and (REMOVED in manifest["files"]) == (not compacted)
    assert len(all_files(bundle)) == len(manifest["files"]) + 1
    np.testing.assert_array_equal(read_codes(load_index(bundle / "index.faiss")), codes[count:])
    with pinned(bundle) as files, items_in(files) as items:
        assert items.ids.tolist() == ids[count:].tolist()
    assert manifest["next_id"] == ids.max() + 1 and manifest["history"][-1]["removed"] == count


def test_the_last_item_stays(bundle: Path) -> None:
    whole = all_files(bundle)
    with pytest.raises(ValueError, match="nothing would be left"):
        drop(bundle, np.arange(N), device="cpu")
    assert all_files(bundle) == whole and not bundle.with_name("bundle.update").exists()


def test_only_the_last_changes_are_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "MOST_HISTORY", 3)
    for id in range(5):
        drop(bundle, np.array([id]), device="cpu")
    assert [told["items"] for told in read_manifest(bundle)["history"]] == [N - 3, N - 4, N - 5]
