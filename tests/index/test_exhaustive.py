"""Exhaustive indexes: the bytes that FAISS itself makes of the same codes, and exact re-scoring."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index
from mecoq_faiss.index.codes import CODE_BLOCK, pack_codes
from mecoq_faiss.index.exhaustive import fastscan, pq, pq_fastscan, refined
from tests.index.truth import arrays, brute_force, table_rounding


@pytest.mark.parametrize(("n", "M", "K"), [(77, 3, 8), (77, 4, 16), (CODE_BLOCK + 3, 2, 256)])
def test_pq_holds_the_codebooks_and_the_packed_codes(n, M, K):
    codebooks, codes, _ = arrays(n, M, K)
    index = pq(codebooks, codes)
    assert index.is_trained and index.ntotal == n and index.metric_type == faiss.METRIC_INNER_PRODUCT
    stored = faiss.vector_to_array(index.codes).reshape(n, index.code_size)
    np.testing.assert_array_equal(stored, pack_codes(codes, K.bit_length() - 1))
    np.testing.assert_array_equal(faiss.vector_to_array(index.pq.centroids), codebooks.ravel())


@pytest.mark.parametrize(("n", "M"), [(1, 3), (64, 4), (1001, 5), (2 * CODE_BLOCK + 33, 3)])
def test_fastscan_made_in_pieces_is_that_of_faiss(n, M):
    codebooks, codes, _ = arrays(n, M, 16)
    ours, of_faiss = pq_fastscan(codebooks, codes), faiss.IndexPQFastScan(pq(codebooks, codes))
    np.testing.assert_array_equal(faiss.serialize_index(ours), faiss.serialize_index(of_faiss))


def test_fastscan_takes_lists_and_quantizer_over():
    codebooks, codes, xq = arrays(1001, 4, 16)
    D, I = build_index(codebooks, codes, "ivfpqfs", nlist=5, nprobe=2).search(xq, 5)
    source = build_index(codebooks, codes, "ivfpq", nlist=5, nprobe=2)
    index = fastscan(source)
    assert index.nprobe == 2 and index.orig_invlists is None
    del source
    gc.collect()
    D_again, I_again = index.search(xq, 5)
    np.testing.assert_array_equal(D_again, D)
    np.testing.assert_array_equal(I_again, I)


@pytest.mark.parametrize("M", [4, 5])
def test_refined_scores_are_exact(M):
    codebooks, codes, xq = arrays(1001, M, 16)
    base = pq_fastscan(codebooks, codes)
    rough = base.search(xq, 5)[0]
    index = refined(base, codebooks, codes, 8.0)
    exact_M = faiss.downcast_index(index.refine_index).pq.M
    assert index.k_factor == 8 and exact_M == {4: 2, 5: 5}[M]  # pairs of an even M
    del base
    gc.collect()  # the parts belong to the index
    D, I = index.search(xq, 5)
    scores = brute_force(codebooks, codes, xq)
    np.testing.assert_allclose(D, np.take_along_axis(scores, I, axis=1), atol=1e-5)
    exact = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose(D, exact, atol=1e-5)
    assert 1e-4 < np.abs(rough - exact).max() <= table_rounding(codebooks, xq)
