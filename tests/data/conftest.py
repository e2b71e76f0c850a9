"""What the tests of sources share."""

from __future__ import annotations

import pytest

from tests.data.files import write_image


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for seed, name in enumerate(["dog/b.png", "dog/a.PNG", "cat/deep/c.png", "bird/x y é.png"]):
        write_image(root / name, seed)
    for hidden in (".cache/a.png", "dog/.b.png", "cat/._c.png"):
        write_image(root / hidden)
    (root / "dog" / "notes.txt").write_text("no image")
    return root
