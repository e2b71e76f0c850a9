"""The file of API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from mecoq_faiss.service.keys import add_key, find_key, read_keys


def test_keys_are_found_again_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    one, two = add_key(path, "one", "read"), add_key(path, "two", "write")
    keys = read_keys(path)
    assert [(key.name, key.right) for key in keys] == [("one", "read"), ("two", "write")]
    assert find_key(keys, one) == keys[0] and find_key(keys, two) == keys[1]
    assert find_key(keys, one[:-1]) is None and find_key(keys, "") is None and find_key(keys, "\udcff") is None
    assert one not in path.read_text() and path.stat().st_mode & 0o077 == 0


def test_comments_and_hand_written_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\nann  write " + "0" * 64 + "  # the first")  # no newline at the end
    add_key(path, "bob", "read")
    assert [key.name for key in read_keys(path)] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "no key"), ("ann admin " + "0" * 64, "line 1"), ("ann read abc", "line 1"), ("\n\xff", "line 2")],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "keys").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=says):
        read_keys(tmp_path / "keys")


def test_names_are_plain_and_one_each(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "ann", "read")
    for name, says in (("ann", "a key named"), ("a b", "other characters"), ("", "other characters")):
        with pytest.raises(ValueError, match=says):
            add_key(tmp_path / "keys", name, "read")
