"""Single images added to a bundle: their paths, what the same path replaces, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mecoq_faiss import add, export_index, open_bundle, update
from tests.jobs.living import content, ids_of, picture


def test_single_images_are_added(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    picture(400).save(photos / "a" / "x.png")
    picture(401).save(living / "elsewhere.png")
    done = add(bundle, [photos / "a" / "x.png", photos / "a" / "000.png"], root=photos)
    assert (done["added"], done["unchanged"], done["items"]) == (1, 60, 61)
    assert update(bundle, photos)["unchanged"] == 61
    with open_bundle(bundle) as opened:
        assert opened.add([living / "elsewhere.png"])["items"] == 62
        [hits] = opened.search([living / "elsewhere.png"], k=62)
        path = str(living / "elsewhere.png")
        assert len(opened) == 62 and path in {hit.path for hit in hits if hit.score > hits[0].score - 1e-4}
    assert sorted(p.name for p in living.iterdir()) == ["bundle", "elsewhere.png", "photos"]


def test_the_same_path_with_another_content_is_a_new_item(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    before = ids_of(bundle)
    picture(402).save(photos / "a" / "000.png")
    done = add(bundle, str(photos / "a" / "000.png"), root=photos)
    assert (done["added"], done["altered"], done["items"]) == (0, 1, 60)
    after = ids_of(bundle)
    assert after["a/000.png"] > max(before.values()) and after.keys() == before.keys()


def test_what_is_wrong_adds_nothing(start: Path, living: Path) -> None:
    bundle, photos = living / "bundle", living / "photos"
    export_index(start / "run-8", photos, bundle)
    picture(401).save(living / "elsewhere.png")
    with pytest.raises(ValueError, match="does not lie in"):
        add(bundle, [living / "elsewhere.png"], root=photos)
    with pytest.raises(FileNotFoundError, match="no file"):
        add(bundle, [living / "none.png"])
    assert len(content(bundle)) == 60
