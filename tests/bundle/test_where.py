"""Conditions: they choose what plain Python chooses; whatever else they hold is refused, and nothing is read for it."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mecoq_faiss import export_index, open_bundle
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.metadata import metadata_in
from mecoq_faiss.bundle.where import LONGEST, rows_where
from tests.bounded import refusal
from tests.bundle.hostile import WIDTH, N, old_bundle

CAMERAS = ("X", "it's", "")
DAY = datetime.date(2020, 1, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items of classes a and b; each but the first ten has a year, a camera or none, a day and an `f stop`."""
    folder = tmp_path_factory.mktemp("where")
    old = old_bundle(folder)
    lines = [f"{i},{2000 + i % 30},{CAMERAS[i % 3]},{DAY + datetime.timedelta(i)},{i / 2}" for i in range(10, N)]
    (folder / "t.csv").write_text("\n".join(["id,year,camera,day,f stop", *lines]))
    export_index(old, None, folder / "with", codes=old, metadata=folder / "t.csv")
    return folder / "with"


@pytest.fixture
def chosen(bundle: Path) -> Iterator[Callable[[str], list[int]]]:
    with pinned(bundle) as files, items_in(files) as items:
        yield lambda expression: rows_where(expression, items, metadata_in(files)).tolist()


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        ("year >= 2020 and camera == 'X'", lambda i: i >= 10 and i % 30 >= 20 and i % 3 == 0),
        ("YEAR = 2012 or Camera = 'it''s' -- a comment", lambda i: i >= 10 and (i % 30 == 12 or i % 3 == 1)),
        ("camera is null", lambda i: i < 10 or i % 3 == 2),
        ("not camera = 'X'", lambda i: i >= 10 and i % 3 == 1),
        ("year in (2001, 2002) and year between 2000 and 2001", lambda i: i >= 10 and i % 30 == 1),
        ("camera ilike 'I_''S' and \"f stop\" > 20", lambda i: i % 3 == 1 and i / 2 > 20),
        ("day < '2020-02-01' and month(day) = 1", lambda i: 10 <= i < 31),
        ("label = 'a' and id < 7", lambda i: i % 2 == 0 and i < 7),
        ("path like '%7' or regexp_matches(path, '^.*3$')", lambda i: str(i)[-1] in "73"),
        ("case when year > 2020 then id % 2 = 0 else false end", lambda i: i >= 10 and i % 30 > 20 and i % 2 == 0),
        ("true", lambda i: True),
        ("null::boolean", lambda i: False),
        ("year::varchar = '2012' and day >= timestamp '2020-01-13' and day < date '2020-02-01' + interval '2 days'",
         lambda i: i == 12),
        ("1 = 1) or (1 = 1", None),
    ],
)  # fmt: skip
def test_the_rows_for_which_it_is_true(
    expression: str, truth: Callable[[int], bool] | None, chosen: Callable[[str], list[int]]
) -> None:
    if truth is None:
        assert refusal(lambda: chosen(expression), "is no filter")
    else:
        assert chosen(expression) == [i for i in range(N) if truth(i)]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("nob = 3", '"nob" not found'), ("year >", "syntax error"), ("", "SELECT clause without selection list"),
        ("year", "it is BIGINT, not true or false"), ("camera > 3", "Cannot compare|Could not convert"),
        ("year = 2020; DROP TABLE block", "more than one statement"),
        ("1=1; DROP TABLE block", "more than one statement"), ("1=1); DROP TABLE block; --", "syntax error"),
        ("1=1; COPY block TO '/tmp/stolen'", "more than one statement"),
        ("1=1; ATTACH '/tmp/x.db'", "more than one statement"),
        ("1=1; PRAGMA database_list", "more than one statement"),
        ("year = 2020 limit 1", "a query"), ("true union select true", "a query"), ("true from block", "a query"),
        ("true where true", "a query"), ("true, false", "more than one expression"),
        ("read_csv('/etc/passwd') is null", "the function read_csv"),
        ("id in (select 1 from read_csv('/etc/passwd'))", "a subquery"), ("exists (select 1)", "a subquery"),
        ("(select count(*) from range(1000000000000)) > 3", "a subquery"), ("id = any([1, 2])", "a subquery"),
        ("repeat(path, 1000000000) = 'x'", "the function repeat"), ("getenv('HOME') = 'x'", "the function getenv"),
        ("len(range(1000000000)) > 3", "the function"),
        ("current_setting('threads') = '1'", "the function current_setting"),
        ("path::integer[100000] is null", "the type array"), ("year::mine = 3", "the type mine"),
        ("path::struct(x int) is null", "the type STRUCT"), ("block.year.x[1] = 3", "not found|no filter"),
        ("error('x')", "the function error"), ("sum(year) > 1", "the function sum"),
        ("row_number() over () < 3", "a window"), ("columns(*) > 1", "a star"), ("year = ?", "a parameter"),
        ("list_transform([1], lambda x: x + 1) = [2]", "the function|a lambda"),
        ("getvariable('x') = 1", "the function"),
        ("year = $1", "a parameter"), ("block.id = 1 and _row < sleep(5)", "the function sleep"),
        ("year\0 = 1", "a zero character"), ("\ud800", "surrogate|encode"), ("'" + "y" * LONGEST + "' = path", "10,0"),
        ("x" * 1_000_000, "1,000,000 characters"), ("(" * 4000 + "true" + ")" * 4000, "depth"),
        ("not " * 2000 + "true", "depth"), ("case when " * 900, "syntax error"), ("- " * 4000 + "1 = 1", "depth"),
        ("true" + " and true" * 1000 + " or", "syntax error"),
    ],
)  # fmt: skip
def test_what_is_no_condition(expression: str, said: str, chosen: Callable[[str], list[int]]) -> None:
    line = refusal(lambda: chosen(expression), *said.split("|"))
    assert line.startswith("where=") and line.endswith("the columns are id, path, label, year, camera, day, f stop")


def test_long_ones_are_fine(chosen: Callable[[str], list[int]]) -> None:
    assert chosen(" or ".join(f"id = {i}" for i in range(0, 1000, 2))) == list(range(0, N, 2))


def test_without_metadata_there_are_own_columns(tmp_path: Path) -> None:
    with open_bundle(old_bundle(tmp_path)) as opened:
        hits: list[Any] = opened.search(np.zeros((1, WIDTH), "f4") + 1, 60, where="label = 'b'")[0]
        assert sorted(hit.id for hit in hits) == list(range(1, N, 2))
        assert refusal(
            lambda: opened.search(np.ones((1, 4), "f4"), where="year = 3"), "the columns are id, path, label"
        )


def test_an_open_bundle_searches_what_a_condition_chooses(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        xq = np.random.default_rng(0).normal(size=(3, WIDTH)).astype("f4")
        every = opened.search(xq, N)
        for condition in ("year >= 2020", "camera == 'X' and label = 'a'", "false", "id = 12"):
            with pinned(bundle) as files, items_in(files) as items:
                rows = set(rows_where(condition, items, metadata_in(files)).tolist())
            for _ in range(2):  # the second time from the cache
                for hits, of_all in zip(opened.search(xq, 9, where=condition), every, strict=True):
                    wanted = [hit for hit in of_all if hit.row in rows][:9]
                    assert [hit.rank for hit in hits] == list(range(1, len(wanted) + 1))
                    assert {hit.row for hit in hits} <= rows
                    np.testing.assert_allclose([h.score for h in hits], [h.score for h in wanted], atol=1e-5)


def test_dates_are_dates(chosen: Callable[[str], list[int]]) -> None:
    last = DAY + datetime.timedelta(days=N - 1)
    assert chosen(f"day + interval 1 day > date '{last}'") == [N - 1]


def test_files_that_were_removed_that_was_removed(bundle: Path, tmp_path: Path) -> None:
    """An update removes the old generation's files while readers have them open."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with open_bundle(copy) as opened:
        shutil.rmtree(copy)
        hits = opened.search(np.ones((1, WIDTH), "f4"), N, where="year = 2012")[0]
        assert sorted(hit.id for hit in hits) == [12, 42]
