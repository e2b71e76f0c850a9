"""The shards' indexes searched as one against the one index of all codes: scores, rows and order."""

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index
from mecoq_faiss.index.filtered import ChosenRows
from mecoq_faiss.index.inverted_lists import coarse_centroids
from mecoq_faiss.index.merged import MergedShards, kept_in_heap
from mecoq_faiss.index.part import IndexPart, PartLost

M, D_SUB = 4, 4
HEAP = 20  # of FastScan kinds; more results are kept in a reservoir


def made(nbits, n, distinct, seed, additive=False):
    """Codebooks, codes of few different kinds, and queries."""
    rng = np.random.default_rng(seed)
    books = rng.normal(size=(M, 1 << nbits, D_SUB * (M if additive else 1))).astype(np.float32)
    books /= np.linalg.norm(books, axis=2, keepdims=True)
    codes = rng.integers(0, 1 << nbits, (distinct, M)).astype(np.uint8)[rng.integers(0, distinct, n)]
    xq = rng.normal(size=(23, 1 if additive else M, books.shape[2])).astype(np.float32)
    xq = (xq / np.linalg.norm(xq, axis=2, keepdims=True)).reshape(len(xq), -1)
    return books, codes, np.tile(xq, (1, M)) if additive else xq


def one_and_shards(books, codes, kind, edges, additive=False, **options):
    """The index of all codes, and one of each stretch."""
    one = build_index(books, codes, kind, additive=additive, **options)
    if kind.startswith("ivfpq") and kind != "ivfpq-all":
        options["centroids"] = coarse_centroids(books, codes, options["nlist"], 0, additive)
    parts = np.split(codes, edges)
    return one, [build_index(books, part, kind, additive=additive, **options) for part in parts]


KINDS = {
    "pq": ("pq", 8, {}),
    "pqfs": ("pqfs", 4, {}),
    "ivfpq": ("ivfpq", 8, {"nlist": 6, "nprobe": 2}),
    "ivfpq-4": ("ivfpq", 4, {"nlist": 16, "nprobe": 5}),
    "ivfpqfs": ("ivfpqfs", 4, {"nlist": 6, "nprobe": 2}),
    "ivfpq-all": ("ivfpq-all", 8, {}),
    "pqfs-refined": ("pqfs", 4, {"refine": True, "k_factor": 2.0}),
    "ivfpqfs-refined": ("ivfpqfs", 4, {"refine": True, "nlist": 6, "nprobe": 2}),
}


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("distinct", [2, 12, 200])
@pytest.mark.parametrize("name", KINDS)
def test_shards_give_what_the_one_index_gives(name, distinct, additive):
    kind, nbits, options = KINDS[name]
    if additive and kind == "ivfpq-all":
        pytest.skip("takes no additive codes")
    books, codes, xq = made(nbits, 300, distinct, len(name) + distinct, additive)

    one, shards = one_and_shards(books, codes, kind, [7, 130, 131], additive, **options)
    together = MergedShards([IndexPart(shard) for shard in shards])

    for k in (1, 2, 5, 10, 20, 21, 100, 300):
        D, I = together.search(xq, k)
        expected_D, expected_I = one.search(xq, k)
        np.testing.assert_array_equal(D[I >= 0], expected_D[expected_I >= 0], err_msg=f"k={k}")
        if not kind.endswith("fs") or k * options.get("k_factor", 4 if "refine" in options else 1) <= HEAP:
            np.testing.assert_array_equal(I, expected_I, err_msg=f"k={k}")
        else:
            above = expected_D > expected_D.min(axis=1, where=expected_I >= 0, initial=np.inf)[:, None]
            if "refine" not in options:
                assert [set(I[q][above[q]]) for q in range(len(xq))] == [
                    set(expected_I[q][above[q]]) for q in range(len(xq))
                ]


@pytest.mark.parametrize("name", KINDS)
def test_chosen_rows_of_shards_are_those_of_the_one_index(name):
    kind, nbits, options = KINDS[name]
    books, codes, xq = made(nbits, 300, 5, 3)
    one, shards = one_and_shards(books, codes, kind, [100, 150], **options)
    rows = np.flatnonzero(np.random.default_rng(0).random(300) < 0.2)
    rows = rows[(rows < 100) | (rows >= 150)]  # none of the second shard

    parts = [rows[rows < 100], rows[:0], rows[rows >= 150] - 150]
    D, I = MergedShards([IndexPart(*part) for part in zip(shards, parts, strict=True)]).search(xq, 5)

    expected_D, expected_I = ChosenRows(one, rows).search(xq, 5)
    np.testing.assert_array_equal(I, expected_I)
    np.testing.assert_array_equal(D[I >= 0], expected_D[I >= 0])


def test_threads_change_nothing():
    books, codes, xq = made(8, 300, 12, 1)
    one, shards = one_and_shards(books, codes, "ivfpq", [7, 130, 131], nlist=6, nprobe=2)
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2, 5):
            faiss.omp_set_num_threads(threads)
            np.testing.assert_array_equal(
                MergedShards([IndexPart(shard) for shard in shards]).search(xq, 9)[1], one.search(xq, 9)[1]
            )
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)


class Lost(IndexPart):
    def search(self, xq, k):
        raise PartLost("nobody answers")


def test_a_part_that_does_not_answer_is_left_out_only_where_it_may_be():
    books, codes, xq = made(8, 300, 200, 3)
    _, shards = one_and_shards(books, codes, "pq", [100, 150])
    parts = [IndexPart(shards[0]), Lost(shards[1]), IndexPart(shards[2])]
    missing = set()

    D, I = MergedShards(parts).search(xq, 5, missing)

    assert missing == {1}
    rest = np.concatenate([np.arange(100), np.arange(150, 300)])
    there = build_index(books, codes[rest], "pq").search(xq, 5)
    np.testing.assert_array_equal(D, there[0])
    np.testing.assert_array_equal(I, rest[there[1]])
    with pytest.raises(PartLost, match="nobody answers"):
        MergedShards(parts).search(xq, 5)


def test_a_heap_keeps_the_last_of_the_first():
    scores, rows = np.array([1, 2, 1, 1, 3, 1], np.float32), np.arange(6)

    D, I = kept_in_heap(scores, rows, 4)

    assert I.tolist() == [4, 1, 3, 2] and D.tolist() == [3, 2, 1, 1]
