"""What is said of items."""

from __future__ import annotations

import datetime
import decimal

from mecoq_faiss.bundle.generation import relevance
from mecoq_faiss.service.answers import plain, shown


def test_relevance_lies_between_0_and_1() -> None:
    assert [relevance(s, 4.0) for s in (-4.0, 0.0, 4.0, 4.1, -9.0)] == [0.0, 0.5, 1.0, 1.0, 0.0]
    assert relevance(3.0, None) is None


def test_absolute_paths_lose_their_folders() -> None:
    assert shown("cat/1.jpg") == "cat/1.jpg"
    assert shown("/home/ann/cat/1.jpg") == shown(r"C:\home\1.jpg") == "1.jpg"


def test_metadata_become_what_json_holds() -> None:
    day = datetime.date(2024, 2, 1)
    given = {"a": 1, "b": float("nan"), "c": day, "d": decimal.Decimal("1.5"), "e": [day, None], "f": {"g": True}}
    assert plain(given) == {
        "a": 1,
        "b": None,
        "c": "2024-02-01",
        "d": "1.5",
        "e": ["2024-02-01", None],
        "f": {"g": True},
    }
    assert plain(None) is None
