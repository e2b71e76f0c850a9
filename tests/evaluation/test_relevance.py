"""Relevance by classes and by sets of labels, by hand and against products of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from mecoq_faiss.evaluation import count_relevant, is_relevant
from mecoq_faiss.evaluation import relevance as relevance_module
from mecoq_faiss.evaluation.relevance import LabelMatch, same_classes


def test_labels_by_hand():
    I = [[0, 2, -1], [3, 1, 0]]
    np.testing.assert_array_equal(is_relevant([7, 8], [7, 8, 7, 9], I), [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(count_relevant([7, 8, 10], [7, 8, 7, 9]), [2, 1, 0])
    sets_q, sets_db = [[1, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(is_relevant(sets_q, sets_db, I), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(count_relevant(sets_q, sets_db), [2, 2])


def test_label_sets_equal_their_products(monkeypatch):
    monkeypatch.setattr(relevance_module, "PART", 64)
    rng = np.random.default_rng(0)
    q, db = rng.random((50, 81)) < 0.03, rng.random((200, 81)) < 0.03
    shared = q.astype(int) @ db.T.astype(int) > 0
    np.testing.assert_array_equal(is_relevant(q, db, np.tile(np.arange(200), (50, 1))), shared)
    np.testing.assert_array_equal(count_relevant(q, db), shared.sum(1))


def test_classes_are_matched_by_name() -> None:
    a, b = same_classes(np.array([0, 1]), ("cat", "dog"), np.array([0, 1, 2]), ("ant", "dog", "cat"))
    assert a.tolist() == [2, 1] and b.tolist() == [0, 1, 2]
    a, _ = same_classes(np.array([0, 1]), ("cat", "eel"), np.array([0]), ("cat",))
    assert a.tolist() == [0, 2], "a class of the queries alone matches nothing"
    with pytest.raises(ValueError, match="share no class name"):
        same_classes(np.array([0]), ("cat",), np.array([0]), ("dog",))


def test_sets_of_labels_are_not_renumbered() -> None:
    sets = np.eye(2, dtype=np.uint8)
    q, db = same_classes(sets, ("cat", "dog"), sets[:1], ("cat", "dog"))
    assert q is sets and db.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="different label sets"):
        same_classes(sets, ("cat", "dog"), sets, ("dog", "cat"))


@pytest.mark.parametrize("L", [1, 63, 64, 65, 130])
def test_the_last_label_counts_as_the_first_does(L: int) -> None:
    """Labels are kept in words of 64."""
    first, last = np.zeros((2, L), np.uint8)
    first[0] = last[-1] = 1
    match = LabelMatch(np.stack([first, last]), np.stack([last, first, first | last, 0 * first]))
    found = match(np.array([0, 1]), np.array([[0, 1, 2, 3, -1]] * 2))
    alone = L == 1
    assert found.tolist() == [[alone, True, True, False, False], [True, alone, True, False, False]]
    assert match.counts().tolist() == [2 + alone, 2 + alone]


def test_classes_that_the_database_has_not() -> None:
    match = LabelMatch([5, -3, 99, 2], [2, 2, 5])
    assert match.counts().tolist() == [1, 0, 0, 2]
    assert match(np.array([3, 1]), np.array([[0, 2], [0, -1]])).tolist() == [[True, False], [False, False]]
