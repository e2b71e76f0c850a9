"""What an index tells of itself."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import (
    build_index,
    describe_index,
    read_codebooks,
    read_codes,
    read_ids,
    set_search_effort,
    without_ids,
    without_refiner,
)
from mecoq_faiss.index.codes import pack_codes
from tests.index.truth import arrays, every_case


def test_describe():
    codebooks, codes, _ = arrays(1001, 4, 16)
    assert describe_index(build_index(codebooks, codes, "ivfpqfs", ids=np.arange(1001), refine=True, nlist=8)) == {
        "kind": "ivfpqfs",
        "d": 24,
        "M": 4,
        "nbits": 4,
        "n": 1001,
        "metric": "inner_product",
        "nlist": 8,
        "nprobe": 6,
        "refine": 4.0,
        "bytes_per_code": 2,
        "has_ids": True,
    }
    assert describe_index(build_index(*arrays(7, 4, 256)[:2], "ivfpq-all"))["kind"] == "ivfpq-all"
    assert describe_index(build_index(codebooks, codes))["nprobe"] is None


def test_reads_an_index_of_faiss_behind_a_rotation():
    x = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    index = faiss.index_factory(8, "RR8,PQ2x4np")
    index.train(x)
    index.add(x)
    inner = faiss.downcast_index(index.index)
    assert read_codebooks(index).shape == (2, 16, 4)
    np.testing.assert_array_equal(pack_codes(read_codes(index), 4), inner.sa_encode(index.chain.at(0).apply(x)))


def test_codebooks_of_residuals_are_refused():
    x = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    index = faiss.index_factory(8, "IVF4,PQ2x4np")
    index.train(x)
    with pytest.raises(ValueError, match="residuals"):
        read_codebooks(index)
    with pytest.raises(ValueError, match="IndexFlat"):
        describe_index(faiss.IndexFlatL2(8))


IDS = np.arange(1001)[::-1] * 3 + (1 << 40)


def layered() -> tuple[faiss.Index, np.ndarray]:
    """An index of every layer there is: ids, a refiner, lists of FastScan; and queries."""
    codebooks, codes, xq = arrays(1001, 4, 16)
    return build_index(codebooks, codes, "ivfpqfs", ids=IDS, refine=True, nlist=8), xq


@every_case
def test_the_arrays_that_were_put_in(kind, M, K, options):
    codebooks, codes, _ = arrays(1001, M, K)
    index = build_index(codebooks, codes, kind, **options)
    np.testing.assert_array_equal(read_codebooks(index), codebooks)
    np.testing.assert_array_equal(read_codes(index), codes)


def test_ids_are_read_and_left_out():
    index, xq = layered()
    np.testing.assert_array_equal(read_ids(index), IDS)
    D, I = index.search(xq, 5)
    positions = without_ids(index)
    assert read_ids(positions) is None and without_ids(positions) is positions
    del index
    gc.collect()  # the part keeps the whole
    D_again, rows = positions.search(xq, 5)
    np.testing.assert_array_equal(IDS[rows], I)
    np.testing.assert_array_equal(D_again, D)


def test_without_its_refiner_an_index_gives_the_tables_scores():
    codebooks, codes, xq = arrays(1001, 4, 16)
    index = build_index(codebooks, codes, "pqfs", refine=True)
    plain = without_refiner(index)
    assert isinstance(plain, faiss.IndexPQFastScan) and without_refiner(plain) is plain
    del index
    gc.collect()
    np.testing.assert_array_equal(plain.search(xq, 5)[0], build_index(codebooks, codes, "pqfs").search(xq, 5)[0])


def test_search_effort_reaches_every_layer():
    index, _ = layered()
    set_search_effort(index, nprobe=3)
    assert [describe_index(index)[name] for name in ("nprobe", "refine")] == [3, 4.0]
    set_search_effort(index, k_factor=16.0)
    assert [describe_index(index)[name] for name in ("nprobe", "refine")] == [3, 16.0]
    bare = without_ids(index)
    set_search_effort(bare, nprobe=8, k_factor=2.0)
    assert [describe_index(index)[name] for name in ("nprobe", "refine")] == [8, 2.0]
