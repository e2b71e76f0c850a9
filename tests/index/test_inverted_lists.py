"""Inverted lists from codes alone, against those that FAISS makes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, describe_index, read_codes
from mecoq_faiss.index.codes import decode_codes, sum_codes
from mecoq_faiss.index.exhaustive import fastscan
from mecoq_faiss.index.inverted_lists import coarse_centroids, default_nlist, default_nprobe
from tests.index.truth import arrays, assert_search, brute_force, clustered, table_rounding


def test_default_lists():
    assert [default_nlist(n) for n in (1, 77, 78, 1001, 50_000, 10**6, 10**8)] == [1, 1, 2, 16, 1024, 4096, 32768]
    assert [default_nprobe(nlist) for nlist in (1, 2, 16, 1024)] == [1, 2, 8, 64]
    codebooks, codes, _ = arrays(5_000, 2, 16)
    assert coarse_centroids(codebooks, codes, 4, seed=0).shape == (4, 12)  # from a sample of 1,024


@pytest.mark.parametrize(("kind", "K"), [("ivfpq", 256), ("ivfpqfs", 16)])
def test_stored_nprobe_finds_most_neighbors(kind, K):
    codebooks, codes, xq = clustered(10_000, 4, K)
    index = build_index(codebooks, codes, kind)
    about = describe_index(index)
    assert (about["nlist"], about["nprobe"]) == (256, 32)
    scores = brute_force(codebooks, codes, xq)
    _, I = index.search(xq, 10)
    worst = -np.sort(-scores, axis=1)[:, 9:10]
    rounding = table_rounding(codebooks, xq) if kind == "ivfpqfs" else 1e-6
    assert (np.take_along_axis(scores, I, axis=1) >= worst - rounding).mean() >= 0.9


@pytest.mark.parametrize(("n", "M", "nlist"), [(3001, 7, 1), (100, 5, 100), (5000, 8, 37), (150_000, 4, 300)])
def test_fastscan_lists_are_those_that_faiss_makes(n, M, nlist):
    codebooks, codes, _ = arrays(n, M, 16)
    ours = build_index(codebooks, codes, "ivfpqfs", nlist=nlist)
    faiss_own = fastscan(build_index(codebooks, codes, "ivfpq", nlist=nlist))
    np.testing.assert_array_equal(faiss.serialize_index(ours), faiss.serialize_index(faiss_own))


def test_codes_lie_in_the_list_of_their_nearest_centroid():
    codebooks, codes, _ = clustered(3_000, 4, 256)
    index = build_index(codebooks, codes, "ivfpq", nlist=300)  # list numbers of two bytes
    centroids = index.quantizer.reconstruct_n(0, 300)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    similarity = decode_codes(codebooks, codes) @ centroids.T
    for number in range(300):
        size = index.invlists.list_size(number)
        if size:
            rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            np.testing.assert_allclose(similarity[rows, number], similarity[rows].max(axis=1), atol=1e-5)


def test_additive_codes_lie_in_the_list_of_their_sums_nearest_centroid():
    codebooks, codes, _ = clustered(3_000, 4, 256)
    codebooks *= np.array([1, 0.6, 0.4, 0.2], np.float32)[:, None, None]
    index = build_index(codebooks, codes, "ivfpq", nlist=30, additive=True)
    repeated = index.quantizer.reconstruct_n(0, 30).reshape(30, 4, 8)
    np.testing.assert_array_equal(repeated, repeated[:, :1].repeat(4, axis=1))
    similarity = sum_codes(codebooks, codes) @ repeated.sum(axis=1).T  # <q, w> is what a repeated query q sees too
    for number in range(30):
        rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), index.invlists.list_size(number))
        np.testing.assert_allclose(similarity[rows, number], similarity[rows].max(axis=1), atol=1e-5)


def test_more_lists_than_different_codes():
    codebooks, _, xq = arrays(1, 2, 2)
    codes = np.random.default_rng(0).integers(0, 2, (200, 2), dtype=np.uint8)
    index = build_index(codebooks, codes, "ivfpq", nlist=64, nprobe=64)
    assert_search(index, brute_force(codebooks, codes, xq), xq, 10, 1e-5, np.arange(200))


def test_gpu_kind_is_what_a_gpu_takes():
    index = build_index(*arrays(1001, 4, 256)[:2], "ivfpq-all", nlist=5)
    assert type(index) is faiss.IndexIVFPQ and index.by_residual and index.pq.nbits == 8
    assert index.nlist == index.nprobe == 5 and not index.quantizer.reconstruct_n(0, 5).any()
    assert [index.invlists.list_size(number) for number in range(5)] == [201, 200, 200, 200, 200]


@pytest.mark.parametrize("kind", ["ivfpq", "ivfpqfs"])
def test_empty_lists(kind):
    """4 different codes in 64 lists."""
    codebooks, _, _ = arrays(1, 2, 16)
    codes = np.random.default_rng(0).integers(0, 2, (200, 2), dtype=np.uint8)
    index = build_index(codebooks, codes, kind, nlist=64)
    sizes = [index.invlists.list_size(number) for number in range(64)]
    assert sum(sizes) == 200 and sum(size > 0 for size in sizes) <= 4
    np.testing.assert_array_equal(read_codes(index), codes)
