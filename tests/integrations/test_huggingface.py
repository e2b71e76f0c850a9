"""Bundles on the Hub: pushed as one commit, opened by name, checked like any; and in `datasets`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ImageSource, load_encoder, open_bundle, open_source, remove

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
from huggingface_hub import constants

from mecoq_faiss.integrations.huggingface import push_to_hub
from tests.integrations.hub import Hub

NAME = "hf://org/photos"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


def test_a_pushed_bundle_is_opened_by_name(hub: Hub, home: Path) -> None:
    url = push_to_hub(home / "bundle", "org/photos", token="hf_x")
    assert (
        url.startswith(f"{hub.url}/org/photos/commit/")
        and "hf://org/photos" in hub.repos["org/photos"]["README.md"].decode()
    )
    encoder = load_encoder(NAME)
    assert set(hub.asked) == {"manifest.json", "encoder/config.json", "encoder/model.safetensors"}
    with open_bundle(home / "bundle") as here, open_bundle(NAME) as there:
        assert there.search(home / "query.png", k=9, where="year > 2003") == here.search(
            home / "query.png", k=9, where="year > 2003"
        )
        np.testing.assert_array_equal(encoder.encode(home / "query.png"), here.encoder.encode(home / "query.png"))
        for change in (lambda: there.remove([0]), lambda: there.add([home / "query.png"])):
            with pytest.raises(ValueError, match="--local-dir"):
                change()


def test_a_second_push_leaves_nothing_of_the_first(hub: Hub, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "bundle", tmp_path / "b")
    remove(tmp_path / "b", [0])
    push_to_hub(tmp_path / "b", "org/photos", token="hf_x")
    hub.repos["org/photos"]["notes.txt"] = b"mine"
    hub.repos["org/photos"]["README.md"] = b"my card"
    assert "removed.npy" in hub.repos["org/photos"] and len(open_bundle(NAME)) == 59
    push_to_hub(home / "bundle", "org/photos", token="hf_x")
    files = hub.repos["org/photos"]
    assert "removed.npy" not in files and files["notes.txt"] == b"mine" and files["README.md"] == b"my card"
    assert len(open_bundle(NAME)) == 60


def test_what_is_downloaded_is_checked(hub: Hub, home: Path, tmp_path: Path) -> None:
    push_to_hub(home / "bundle", "org/photos", token="hf_x")
    hub.repos["org/photos"]["encoder/model.safetensors"] = b"other weights"
    with pytest.raises(ValueError, match="differs from the manifest"):
        load_encoder(NAME)
    shutil.copytree(home / "bundle", tmp_path / "b")
    (tmp_path / "b" / "index.faiss").write_bytes(b"")
    with pytest.raises(ValueError, match="differs from the manifest"):
        push_to_hub(tmp_path / "b", "org/new", token="hf_x")
    assert "org/new" not in hub.repos


def test_names_that_are_none(hub: Hub) -> None:
    with pytest.raises(FileNotFoundError, match="hf://org/nothing cannot be downloaded"):
        open_bundle("hf://org/nothing")
    for name in ("hf://photos", "hf://org/photos/more", "hf://org/photos@"):
        with pytest.raises(ValueError, match="write hf://ORG/NAME"):
            load_encoder(name)


def test_the_documented_lines_for_datasets(documented: Callable[[str], dict[str, Any]], home: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: make clients")
    names = documented("Hugging Face")
    with open_bundle(home / "bundle") as bundle:
        [hits] = bundle.search(home / "query.png", k=5)
    assert names["found"]["image_path"] == [hit.path for hit in hits] and names["found"]["year"][0] == 2007
    np.testing.assert_allclose(names["scores"], [hit.score for hit in hits], rtol=1e-6)


def test_a_dataset_is_a_source_by_its_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: make clients")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(4)]
    dataset = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1]}, features=features)
    dataset.to_parquet(str(tmp_path / "pictures.parquet"))
    source = open_source(str(tmp_path / "pictures.parquet"), "train")
    assert isinstance(source, ImageSource) and source.class_names == ("cat", "dog")
    assert [name.partition("/")[0] for name in source.paths] == ["cat", "cat", "dog", "dog"]
    assert [np.asarray(source.open(i))[0, 0, 0] for i in range(4)] == [0, 20, 10, 30]
