"""Groups of items that show nearly the same: found by their codes, confirmed by their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mecoq_faiss.index.codes import decode_codes, unit_sums
from mecoq_faiss.index.near import near_codes

NEAR = 0.98  # of the greatest score (M, of additive codes 1): the default threshold of codes
COSINE = 0.98  # of embeddings, mean over the segments
TOLERANCE = 1e-4  # of scores, float32: so much below the threshold still counts
EMBEDDED = 1 << 15  # about so many embeddings are held at once
SCORES = 1 << 22  # so many are computed at once
PAIRS = 1 << 20  # so many become Python's numbers at once


class Duplicate(NamedTuple):
    """An item of a group of duplicates, of which the first has the lowest id.

    Example:
        >>> from mecoq_faiss import Duplicate
        >>> Duplicate(id=7, path="cat/7.jpg", score=7.97, exact=False)._asdict()
        {'id': 7, 'path': 'cat/7.jpg', 'score': 7.97, 'exact': False}
    """

    id: int  # the item's own
    path: str
    score: float  # with the first of the group: of the embeddings where both are known, else of the codes
    exact: bool  # the first of the group, or of the same content (SHA-256) as it


class Group(NamedTuple):
    """Rows of duplicates, rising; each one's score with the first, and whether it has the first one's content."""

    rows: np.ndarray  # (m,) int64
    scores: np.ndarray  # (m,) float32
    exact: np.ndarray  # (m,) bool


class Joined:
    """Union-find over rows 0 to n - 1: what is joined, directly or through others, is one group."""

    def __init__(self, n: int) -> None:
        self._towards = list(range(n))  # of each row another of its group that is no higher

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Join row first[i] with row second[i], of all i."""
        for start in range(0, len(first), PAIRS):
            part = slice(start, start + PAIRS)
            for one, other in zip(first[part].tolist(), second[part].tolist(), strict=True):
                one, other = self._lowest(one), self._lowest(other)
                self._towards[max(one, other)] = min(one, other)

    def groups(self) -> list[np.ndarray]:
        """The groups of two rows or more, by their lowest rows; each (m,) int64, rising."""
        lowest = np.array([self._lowest(row) for row in range(len(self._towards))], np.int64)
        order = np.argsort(lowest, kind="stable")
        starts = np.flatnonzero(np.diff(lowest[order])) + 1
        return [group for group in np.split(order, starts) if len(group) > 1]

    def _lowest(self, row: int) -> int:
        towards = self._towards
        while towards[row] != row:
            towards[row] = row = towards[towards[row]]
        return row


def find_groups(
    codebooks: np.ndarray,
    codes: np.ndarray,
    content: np.ndarray | None,
    threshold: float,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    cosine: float = COSINE,
    additive: bool = False,
) -> list[Group]:
    """Groups of rows that are joined, directly or through others, by pairs of duplicates.

    A pair has equal content, or a score of its codes' vectors from `threshold` on and, with `embed`, a mean inner
    product of its embeddings' segments from `cosine` on. Of additive codes the score is the cosine of the sums, and a
    vector is one segment.

    Args:
        codebooks: (M, K, d) float32, every codeword of norm 1, or additive ones.
        codes: (n, M) uint8.
        content: (n, 32) uint8, SHA-256; zeros where it is not known. None where no one's is.
        threshold: from -M to M, of additive codes from -1 to 1.
        embed: gives the embeddings (m, D) float32 of rows (m,), every segment of norm 1, zeros where there is none.
        cosine: above 0, at most 1.
        additive: codes stand for the sum of their codewords.
    """
    vectors, segments = (unit_sums, 1) if additive else (decode_codes, codes.shape[1])
    same_content = np.arange(len(codes)) if content is None else _first_equal(content)
    if content is not None:
        unknown = ~content.any(axis=1)
        same_content[unknown] = np.flatnonzero(unknown)
    same_code = _first_equal(codes)
    everyone, distinct = np.arange(len(codes)), np.unique(same_code)
    candidates = Joined(len(codes))
    candidates.join(everyone, same_content)
    candidates.join(everyone, same_code)
    for first, second in near_codes(codebooks, codes[distinct], threshold - TOLERANCE, additive):
        candidates.join(distinct[first], distinct[second])
    found = []
    for groups in _chunks(candidates.groups()):
        z = None if embed is None else embed(np.concatenate(groups))
        for rows in groups:
            x, here = vectors(codebooks, codes[rows]), None
            parts = [np.arange(len(rows))]
            if z is not None:
                here, z = z[: len(rows)], z[len(rows) :]
                _, same = np.unique(same_content[rows], return_inverse=True)
                parts = _confirmed(x, here, same, threshold - TOLERANCE, segments * cosine - TOLERANCE)
            found += [_group(rows, part, x, here, same_content) for part in parts]
    return sorted(found, key=lambda group: int(group.rows[0]))


def _first_equal(rows: np.ndarray) -> np.ndarray:
    """Of each row (n, w) uint8 the first row that equals it, (n,) int64."""
    whole = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
    _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    return first[which]


def _chunks(groups: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Groups, about EMBEDDED rows together."""
    chunk: list[np.ndarray] = []
    for group in groups:
        chunk.append(group)
        if sum(map(len, chunk)) >= EMBEDDED:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _confirmed(
    x: np.ndarray, z: np.ndarray, same: np.ndarray, of_codes: float, of_embeddings: float
) -> list[np.ndarray]:
    """The parts of a group of candidates that their embeddings z (m, D) confirm, or their equal content."""
    joined = Joined(len(x))
    size = max(1, SCORES // len(x))
    for start in range(0, len(x), size):
        block = slice(start, start + size)
        near = (x[block] @ x.T >= of_codes) & (z[block] @ z.T >= of_embeddings)
        first, second = np.nonzero(near | (same[block, None] == same))
        joined.join(first + start, second)
    return joined.groups()


def _group(rows: np.ndarray, part: np.ndarray, x: np.ndarray, z: np.ndarray | None, content: np.ndarray) -> Group:
    scores = x[part] @ x[part[0]]
    if z is not None and z[part[0]].any():
        scores = np.where(z[part].any(axis=1), z[part] @ z[part[0]], scores)
    members = rows[part]
    return Group(members, scores, content[members] == content[members[0]])
