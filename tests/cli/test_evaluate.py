"""`evaluate`: the figures of a run and of its bundle, its cut-off, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calls import fails, ok


def test_help_says_which_equation_it_is() -> None:
    assert "Eq. 18" in ok("evaluate", "--help")


def test_it_gives_the_same_for_run_and_bundle(run: Path, bundle: Path) -> None:
    of_run = json.loads(ok("evaluate", run, "--queries", "digits", "--database", "digits", "-k", 100, "--json"))
    of_bundle = json.loads(ok("evaluate", bundle, "--queries", "digits", "-k", 100, "--json"))
    assert of_run == of_bundle
    assert of_run["map"] > 0.4 and of_run["items"] == 1500  # chance is 0.1


def test_an_unreadable_query_is_skipped(picture_bundle: Path, pictures: Path) -> None:
    found = json.loads(ok("evaluate", picture_bundle, "--queries", pictures, "-k", 5, "--json"))
    assert found["skipped_queries"] == 1 and found["map"] > 0.8  # brightness alone tells them apart


def test_the_cut_off_of_few_images_is_all_of_them(picture_run: Path, pictures: Path) -> None:
    call = ("evaluate", picture_run, "--queries", pictures, "--database", pictures)
    found = json.loads(ok(*call, "--json"))
    assert (found["k"], found["items"]) == (40, 40)
    assert "k=1000 is out of range" in fails(*call, "-k", 1000)


def test_k_out_of_range(bundle: Path) -> None:
    for k in (0, -3, 1501):
        assert "out of range" in fails("evaluate", bundle, "--queries", "digits", "-k", k)


def test_an_altered_bundle_is_refused(broken: Path) -> None:
    index = broken / "index.faiss"
    index.write_bytes(index.read_bytes()[:-100])
    assert "index.faiss" in fails("evaluate", broken, "--queries", "digits")
