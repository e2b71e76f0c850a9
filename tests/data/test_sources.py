"""Sources: what a name opens, how it is labelled, split and told apart, and what is refused."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss.data.sources import ImageSource, open_source
from tests.data.files import PATHS, noise, pack, refused, write_image


def test_folder(folder):
    source = open_source(folder, "train")
    assert isinstance(source, ImageSource) and source.kind == "images"
    assert source.paths == PATHS and len(source) == 4
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 1, 2, 2]
    assert source.class_names == ("bird", "cat", "dog") and source.protocol is None
    np.testing.assert_array_equal(np.asarray(source.open(3)), noise(4, 5, seed=0))
    assert open_source(str(folder), "queries").paths == source.paths


def test_no_labels_when_an_image_lies_at_the_root(folder):
    write_image(folder / "z.png")
    source = open_source(folder, "train")
    assert source.paths[-1] == "z.png" and source.labels is None and source.class_names == ()
    assert source.subset([0, 4]).labels is None


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_tar_equals_folder(folder, ending):
    from_folder, from_tar = open_source(folder, "train"), open_source(pack(folder, ending), "train")
    assert from_tar.paths == from_folder.paths and from_tar.class_names == from_folder.class_names
    np.testing.assert_array_equal(from_tar.labels, from_folder.labels)
    again = pickle.loads(pickle.dumps(from_tar))
    for i in range(4):
        np.testing.assert_array_equal(np.asarray(from_tar.open(i)), np.asarray(from_folder.open(i)))
        np.testing.assert_array_equal(np.asarray(again.open(i)), np.asarray(from_folder.open(i)))


def test_subset_keeps_the_order_given(folder):
    source = open_source(folder, "train").subset(np.array([3, 0]))
    assert source.paths == (PATHS[3], PATHS[0]) and source.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(np.asarray(source.open(1)), noise(4, 5, seed=3))
    assert source.subset([1]).paths == (PATHS[0],) and len(source.subset([])) == 0
    assert source.subset(np.array([False, True])).paths == source.subset([-1]).paths == (PATHS[0],)


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz"])
def test_fingerprint(folder, ending):
    def opened():
        return open_source(pack(folder, ending) if ending else folder, "train")

    path = pack(folder, ending) if ending else folder
    first = open_source(path, "train")
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint)
    assert first.fingerprint == open_source(path, "queries").fingerprint == first.subset(range(4)).fingerprint
    assert len({first.fingerprint, first.subset([0]).fingerprint, first.subset([1, 0]).fingerprint}) == 3
    before = first.fingerprint
    os.utime(folder / "cat" / "deep" / "c.png", (1, 1))
    assert opened().fingerprint != before
    before = opened().fingerprint
    (folder / "dog" / "b.png").rename(folder / "dog" / "c.png")
    assert opened().fingerprint != before


def test_a_protocol_goes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "digits" / "a.png")
    assert len(open_source("digits", "train")) == 1500
    assert len(open_source("./digits", "train")) == len(open_source(Path("digits"), "train")) == 1


def test_unknown_sources():
    message = refused("cifar10-iii", FileNotFoundError)
    assert "no file or folder" in message and message.endswith("did you mean cifar10-ii, cifar10-i?")
    assert "choose one of cifar10-i, cifar10-ii, digits, flickr25k, nuswide" in refused("xyz", FileNotFoundError)
    assert "did you mean nuswide?" in refused("NUS-WIDE:/x#train", FileNotFoundError)
    assert "did you mean" not in refused("/no/such/place", FileNotFoundError)


def test_splits(tmp_path, folder):
    assert "'test'" in refused("digits#test") and "train, queries, database" in refused("digits#test")
    assert "train, queries, database" in refused(folder, split="test")
    assert "only built-in protocols have splits" in refused(f"{folder}#train")
    hashed = tmp_path / "a#train"
    write_image(hashed / "a.png")
    assert len(open_source(str(hashed), "queries")) == 1


def test_folders_and_files_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "the folder is empty; accepted types: .bmp, .gif" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "a.heic").touch()
    assert "none of its 1 files is an image; accepted types: .bmp, .gif" in refused(tmp_path / "empty")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.add(tmp_path / "empty", arcname="x")
    assert "no images in this tar; accepted types" in refused(tmp_path / "none.tar")
    for name in ("text.tar", "text.tar.gz", "text.tar.xz"):
        (tmp_path / name).write_text("hello" * 400)
        assert "not a readable tar" in refused(tmp_path / name)
    write_image(tmp_path / "one.png")
    assert "give the folder" in refused(tmp_path / "one.png")
    (tmp_path / "a.zip").touch()
    assert "unknown file type; give a folder of images or one of .tar, " in refused(tmp_path / "a.zip")
