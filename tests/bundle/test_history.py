"""What is drawn of a bundle's history, whatever a stranger's manifest holds."""

from pathlib import Path

import pytest

from mecoq_faiss.bundle.history import plot_history, series


def test_only_numbers_are_drawn_where_they_were_measured() -> None:
    drift = {"auc": 0.6, "divergence": 0.1}
    history = [
        {"items": 5},
        {"items": 7, "drift": drift},
        {"items": "x", "drift": 3},
        {"items": 6, "drift": {"new": 1}},
    ]
    assert series({"history": history}) == {
        "items": ([1, 2, 4], [5, 7, 6]), "auc": ([2], [0.6]), "divergence": ([2], [0.1]),
    }  # fmt: skip


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png"):
        plot_history({}, tmp_path / "a.pdf")
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="never updated"):
        plot_history({}, tmp_path / "a.svg")
