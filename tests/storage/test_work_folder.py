"""Work folders: what a killed run left is kept under its key, and nothing of the user's is ever removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mecoq_faiss.storage.files import InUseError
from mecoq_faiss.storage.work_folder import LOCK, MARKER, WorkFolder

KEY = {"data": "abc", "views": 2}


def folder(path: Path, **change: object) -> WorkFolder:
    return WorkFolder(path / "out.parts", KEY | change, r"\d{2}\.h5|encoder")


def left(path: Path) -> list[str]:
    return sorted(os.listdir(path / "out.parts"))


def work(path: Path, *names: str) -> None:
    """A run that is killed after it wrote these."""
    with pytest.raises(KeyboardInterrupt), folder(path).opened():
        for name in names:
            (path / "out.parts" / name).write_text(name)
        raise KeyboardInterrupt


def test_what_a_killed_run_made_is_kept_but_for_its_temporary_files(tmp_path: Path) -> None:
    work(tmp_path, "00.h5", "01.h5", ".02.h5.123.tmp")
    assert json.loads((tmp_path / "out.parts" / MARKER).read_text()) == {"mecoq-faiss": KEY}
    assert left(tmp_path) == [".02.h5.123.tmp", LOCK, "00.h5", "01.h5", MARKER]
    with folder(tmp_path).opened():
        assert left(tmp_path) == [LOCK, "00.h5", "01.h5", MARKER]


def test_content_of_another_key_goes(tmp_path: Path) -> None:
    work(tmp_path, "00.h5")
    (tmp_path / "out.parts" / "encoder").mkdir()
    (tmp_path / "out.parts" / "encoder" / "config.json").write_text("x")
    with folder(tmp_path, views=3).opened():
        assert left(tmp_path) == [LOCK, MARKER]
    with folder(tmp_path, views=(3,)).opened():
        assert json.loads((tmp_path / "out.parts" / MARKER).read_text())["mecoq-faiss"]["views"] == [3]
    with folder(tmp_path, views=[3]).opened():  # the same in JSON
        assert left(tmp_path) == [LOCK, MARKER]


@pytest.mark.parametrize("marker", [b"", b"{", b"{\xff"])
def test_a_damaged_marker_is_another_key(tmp_path: Path, marker: bytes) -> None:
    work(tmp_path, "00.h5")
    (tmp_path / "out.parts" / MARKER).write_bytes(marker)
    with folder(tmp_path).opened():
        assert left(tmp_path) == [LOCK, MARKER]


@pytest.mark.parametrize("files", [["notes.txt"], [MARKER, "notes.txt"], ["00.h5"], [MARKER]])
def test_a_folder_of_the_users_is_left_alone(tmp_path: Path, files: list[str]) -> None:
    parts = tmp_path / "out.parts"
    parts.mkdir()
    for name in files:
        (parts / name).write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=r"out\.parts is in the way"), folder(tmp_path).opened():
        pass
    assert left(tmp_path) == sorted(files) and (parts / files[0]).read_text() == '{"mine": 1}'


def test_a_link_or_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "out.parts").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match="is in the way"), folder(tmp_path).opened():
        pass
    (tmp_path / "out.parts").unlink()
    (tmp_path / "out.parts").write_text("mine")
    with pytest.raises(FileExistsError, match="is in the way"), folder(tmp_path).opened():
        pass
    assert (tmp_path / "out.parts").read_text() == "mine" and os.listdir(tmp_path / "precious") == []


def test_a_foreign_file_stops_the_next_run_and_is_named(tmp_path: Path) -> None:
    work(tmp_path, "00.h5")
    (tmp_path / "out.parts" / "thesis.txt").write_text("mine")
    for views in (2, 3):  # under its own key too
        with pytest.raises(FileExistsError, match=r"holds thesis\.txt"), folder(tmp_path, views=views).opened():
            pass
    assert left(tmp_path) == [LOCK, "00.h5", MARKER, "thesis.txt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        folder(tmp_path).opened(),
        pytest.raises(InUseError, match=f"is in use by process {os.getpid()}"),
        folder(tmp_path).opened(),
    ):
        pass
    with folder(tmp_path).opened():
        pass


def test_removing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for more in ([], ["thesis.txt"]):
        ours = folder(tmp_path)
        with ours.opened():
            for name in ("00.h5", ".01.h5.7.tmp", *more):
                (ours.path / name).write_text("x")
            ours.clear(keep=("00.h5",))
            assert left(tmp_path) == sorted([LOCK, "00.h5", MARKER, *more])
            ours.remove()
        assert not ours.path.exists() or left(tmp_path) == more


def test_the_finished_folder_becomes_its_target(tmp_path: Path) -> None:
    ours = folder(tmp_path)
    with ours.opened():
        for name in ("00.h5", "01.h5"):
            (ours.path / name).write_text(name)
        ours.become(tmp_path / "out", without=("01.h5", "never.h5"))
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["00.h5"]


def test_a_target_that_another_made_meanwhile_stays(tmp_path: Path) -> None:
    with folder(tmp_path).opened():
        (tmp_path / "out.parts" / "00.h5").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        with pytest.raises(FileExistsError, match="out exists, made by another meanwhile: choose another name"):
            folder(tmp_path).become(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["mine"]


def test_what_version_0_1_left_is_replaced(tmp_path: Path) -> None:
    """Its marker was the key itself."""
    work(tmp_path, "00.h5")
    (tmp_path / "out.parts" / MARKER).write_text(json.dumps({"format": 1, "data": "abc"}))
    with folder(tmp_path).opened():
        assert left(tmp_path) == [LOCK, MARKER]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_removed_in_part_it_is_still_ours(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(tmp_path, "00.h5", "01.h5")
    unlink, calls = Path.unlink, []

    def stop_before(path: Path) -> None:
        calls.append(path.name)
        if len(calls) == stop:
            raise KeyboardInterrupt
        unlink(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), folder(tmp_path).opened():
        patch.setattr(Path, "unlink", stop_before)
        folder(tmp_path).remove()
    assert calls[2:] == [MARKER, LOCK][: stop - 2 if stop > 2 else 0]
    with folder(tmp_path).opened():
        folder(tmp_path).remove()
    assert not (tmp_path / "out.parts").exists()
