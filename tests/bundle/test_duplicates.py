"""Groups of duplicates equal a brute-force search; embeddings divide what codes join."""

import numpy as np
import pytest

from mecoq_faiss.bundle.duplicates import Joined, find_groups
from mecoq_faiss.index.codes import decode_codes


def brute(x: np.ndarray, content: np.ndarray, threshold: float) -> set[frozenset[int]]:
    """Groups of rows, by merging sets until nothing changes."""
    groups = [{i, j} for i in range(len(x)) for j in range(i)
              if x[i] @ x[j] >= threshold or (content[i].any() and (content[i] == content[j]).all())]  # fmt: skip
    merged = True
    while merged:
        merged = False
        for one in groups:
            for other in groups:
                if one is not other and one & other:
                    one |= other
                    groups.remove(other)
                    merged = True
                    break
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize(("threshold", "additive"), [(2.5, False), (2.9, False), (3.0, False), (0.95, True)])
def test_groups_are_those_of_brute_force(threshold: float, additive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import mecoq_faiss.bundle.duplicates as duplicates
    import mecoq_faiss.index.near as near

    monkeypatch.setattr(near, "SCORES", 700)  # batches that do not divide
    monkeypatch.setattr(duplicates, "PAIRS", 7)
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(3, 16, 3)).astype(np.float32)
    codebooks /= np.linalg.norm(codebooks, axis=2, keepdims=True)
    codes = rng.integers(0, 16, (200, 3)).astype(np.uint8)
    content = rng.integers(0, 255, (200, 32)).astype(np.uint8)
    codes[50], content[60], content[[1, 2, 3]] = codes[4], content[7], 0  # zeros: not known, hence not equal
    x = decode_codes(codebooks, codes)
    if additive:
        x = x.reshape(200, 3, 3).sum(axis=1)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = brute(x, content, threshold - 1e-4)
    found = find_groups(codebooks, codes, content, threshold, additive=additive)
    assert {frozenset(group.rows.tolist()) for group in found} == expected and len(found) == len(expected)
    [with_60] = [group for group in found if 60 in group.rows]
    assert with_60.exact[with_60.rows.tolist().index(60)] == (with_60.rows[0] == 7)


def test_embeddings_divide_what_codes_join() -> None:
    """Equal codes of five items: the embeddings of two agree, a third has none, a fourth has an equal content."""
    codebooks = np.eye(2, dtype=np.float32)[None].repeat(2, axis=0)  # (2, 2, 2)
    codes = np.zeros((5, 2), np.uint8)
    content = np.arange(1, 6, dtype=np.uint8)[:, None].repeat(32, axis=1)
    content[4] = content[1]
    z = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0.98, 0.199], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    first, second = find_groups(codebooks, codes, content, 1.9, lambda rows: z[rows], 0.98)
    assert first.rows.tolist() == [0, 2] and first.exact.tolist() == [True, False]
    np.testing.assert_allclose(first.scores, [2, 1.98])
    assert second.rows.tolist() == [1, 4] and second.exact.tolist() == [True, True]
    assert second.scores.tolist() == [2, 2]  # of the codes: one embedding is not known
    assert len(find_groups(codebooks, codes, content, 1.9)[0].rows) == 5


def test_joined_rows_are_one_group() -> None:
    joined = Joined(7)
    joined.join(np.array([5, 3, 6]), np.array([3, 1, 2]))
    assert [group.tolist() for group in joined.groups()] == [[1, 3, 5], [2, 6]]
