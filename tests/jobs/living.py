"""Made-up pictures, and what a bundle that follows them holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.index import load_index, read_codes, read_ids


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((16, 16), Image.Resampling.BILINEAR)


def content(bundle: Path) -> dict[str, tuple[bytes, int]]:
    """Path -> code and class of every item; index and items tell the same."""
    with pinned(bundle) as files:
        items = items_in(files)
        index = load_index(files.file("index.faiss"))
        np.testing.assert_array_equal(read_codes(index), items.codes)
        ids = read_ids(index)
        assert ids is None or np.array_equal(ids, items.ids)
        assert len(set(items.ids.tolist())) == len(items) == files.manifest["counts"]["items"]
        labels, names = items.labels()
        assert labels is not None
        rows = zip(items.all_paths().tolist(), items.codes, labels.tolist(), strict=True)
        return {path: (code.tobytes(), names[label]) for path, code, label in rows}


def ids_of(bundle: Path) -> dict[str, int]:
    with pinned(bundle) as files:
        items = items_in(files)
        return dict(zip(items.all_paths().tolist(), items.ids.tolist(), strict=True))
