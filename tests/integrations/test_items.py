"""What other programs take of a bundle: its items by row, and an index that is theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mecoq_faiss import Bundle, open_bundle
from mecoq_faiss.integrations.items import described_items, own_index


def test_items_are_in_the_order_of_rows(bundle: Bundle) -> None:
    items = described_items(bundle)
    assert [item["path"] for item in items] == bundle.paths(np.arange(60))
    assert items[33] == {"id": 33, "path": "b/07.png", "label": "b", "year": 2007}
    with pytest.raises(ValueError, match=r"text='caption': the item 'a/00.png' has nothing there, it has id, path"):
        described_items(bundle, needed="caption")


def test_its_own_index_returns_rows_and_outlives_the_bundle(home: Path) -> None:
    with open_bundle(home / "bundle-ids") as bundle:
        xq = bundle.encoder.encode(home / "query.png")
        index = own_index(bundle)
        index.add(xq)  # an index of own ids would refuse
        assert bundle.index.ntotal == 60
    del bundle
    assert set(index.search(xq, 2)[1][0].tolist()) == {33, 60}
