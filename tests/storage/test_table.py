"""DuckDB, shut in: what it may touch, what it may not, and names and texts that SQL takes as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mecoq_faiss.storage.table import connected, first_row, named, place, quoted, reason

duckdb = pytest.importorskip("duckdb")
ODD = ["plain", "it's", 'say "x"', "a; DROP TABLE t; --", "", "naïve\\"]


@pytest.mark.parametrize("text", ODD)
def test_texts_and_names_are_taken_as_they_are(text: str) -> None:
    with connected() as connection:
        assert first_row(connection, f"SELECT {quoted(text)}") == (text,)
        name = text or "x"
        assert [row[0] for row in connection.execute(f"DESCRIBE SELECT 1 AS {named(name)}").fetchall()] == [name]


def test_it_reads_the_files_it_is_given_and_no_other(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine[1].csv", tmp_path / "other.csv"
    for path in (mine, other):
        path.write_text(f"a\n{path.name}\n")
    with mine.open("rb") as file, other.open("rb") as closed_off, connected([file]) as connection:
        assert first_row(connection, f"FROM read_csv({quoted(place(file))}, header = true)") == ("mine[1].csv",)
        for at in (str(other), place(closed_off), "/etc/passwd"):
            with pytest.raises(duckdb.Error, match=r"Permission|disabled"):
                first_row(connection, f"FROM read_csv({quoted(at)}, header = true)")
        with pytest.raises(duckdb.Error):
            connection.execute(f"COPY (SELECT 1) TO {quoted(str(tmp_path / 'new.csv'))}")
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize("setting", ["memory_limit = '9GB'", "enable_external_access = true", "threads = 9"])
def test_no_setting_can_be_changed(setting: str) -> None:
    with connected() as connection, pytest.raises(duckdb.Error, match=r"locked|cannot"):
        connection.execute(f"SET {setting}")


def test_a_name_is_no_variable_of_the_caller() -> None:
    secret = {"a": [1]}
    with connected() as connection, pytest.raises(duckdb.Error, match="secret does not exist"):
        connection.execute("FROM secret")
    assert secret


def test_the_folder_of_what_memory_does_not_hold_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), connected(spill=tmp_path / "spill") as connection:
        query = "SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'"
        assert first_row(connection, query) == (str(tmp_path / "spill"),)
        (tmp_path / "spill").mkdir(exist_ok=True)
        raise KeyError
    assert not (tmp_path / "spill").exists()


def test_the_first_row_leaves_none_unread() -> None:
    with connected() as connection:
        assert first_row(connection, "SELECT i FROM range(?) t(i) ORDER BY i DESC", [5000]) == (4999,)
        assert first_row(connection, "SELECT 1 WHERE false") is None


def test_a_reason_is_one_short_line() -> None:
    assert reason(ValueError("a\nb")) == "a" and reason(ValueError()) == "ValueError"
    assert reason(ValueError("x" * 300)) == "x" * 200 + "..."


def test_without_duckdb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ImportError, match=r"pip install 'mecoq-faiss\[metadata\]'"), connected():
        pass
