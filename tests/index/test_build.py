"""Every FAISS kind against plain numpy: decode, multiply, compare. Ties are compared by score, never by place."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import KINDS, build_index, check_kind, read_codes
from mecoq_faiss.index.build import GPU_M
from mecoq_faiss.index.codes import decode_codes, pack_codes, sum_codes
from tests.exact import search_exact
from tests.index.truth import arrays, assert_search, brute_force, every_case, every_kind, probe_all, table_rounding


@every_case
@pytest.mark.parametrize("n", [1, 1001])
@pytest.mark.parametrize("own_ids", [False, True])
def test_scores_are_the_brute_force_ones(kind, M, K, options, n, own_ids):
    codebooks, codes, xq = arrays(n, M, K)
    ids = np.sort(np.random.default_rng(0).choice(1 << 40, n, replace=False)) if own_ids else None
    options = {**options, "nlist": min(options["nlist"], n)} if "nlist" in options else options
    index = build_index(codebooks, codes, kind, ids=ids, **options)
    gc.collect()  # nothing of it may belong to a Python object that is gone
    probe_all(index)
    tol = table_rounding(codebooks, xq) if kind.endswith("fs") and not options.get("refine") else 1e-5
    assert index.ntotal == n and index.metric_type == faiss.METRIC_INNER_PRODUCT
    known = np.arange(n) if ids is None else ids
    assert_search(index, brute_force(codebooks, codes, xq), xq, min(n, 10), tol, known)


@every_kind
def test_added_vectors_get_the_codes_of_equation_15(kind, K):
    codebooks, codes, _ = arrays(300, 4, K)
    index = build_index(codebooks, codes, kind)
    z = np.random.default_rng(1).standard_normal((257, 4 * 6)).astype(np.float32)  # raw embeddings, any norm
    index.add(z)
    expected = np.einsum("bmd,mkd->bmk", z.reshape(257, 4, 6), codebooks).argmax(axis=2)
    np.testing.assert_array_equal(read_codes(index)[300:], expected)
    np.testing.assert_array_equal(read_codes(index)[:300], codes)


@every_case
def test_scores_of_additive_codes_are_those_of_sums(kind, M, K, options):
    codebooks, codes, _ = arrays(1001, M, K)
    codebooks *= np.random.default_rng(2).uniform(0.1, 1, (M, K, 1)).astype(np.float32)
    q = np.random.default_rng(3).standard_normal((9, 6)).astype(np.float32)
    xq = np.tile(q, (1, M))
    with pytest.raises(ValueError, match="codewords must have norm 1"):
        build_index(codebooks, codes, kind, **options)
    if kind == "ivfpq-all":
        with pytest.raises(ValueError, match="'ivfpq-all' takes no additive codes: choose 'pq'"):
            build_index(codebooks, codes, kind, additive=True, **options)
        return
    index = build_index(codebooks, codes, kind, additive=True, **options)
    probe_all(index)
    tol = table_rounding(codebooks, xq) if kind.endswith("fs") and not options.get("refine") else 1e-5
    assert_search(index, q.astype(np.float64) @ sum_codes(codebooks, codes).T, xq, 10, tol, np.arange(1001))
    index.add(decode_codes(codebooks, codes[:257]))
    np.testing.assert_array_equal(read_codes(index)[1001:], codes[:257])


@pytest.mark.parametrize("kind", ["pqfs", "ivfpqfs"])
def test_fastscan_finds_nearly_the_same_neighbors(kind):
    codebooks, codes, xq = arrays(8_000, 8, 16, nq=100)
    scores = brute_force(codebooks, codes, xq)
    worst = -np.sort(-scores, axis=1)[:, 9:10]
    found = {}
    for refine in (False, True):
        index = build_index(codebooks, codes, kind, nlist=None, refine=refine)
        probe_all(index)
        _, I = index.search(xq, 10)
        found[refine] = float((np.take_along_axis(scores, I, axis=1) >= worst - 1e-6).mean())
    assert found[False] >= 0.9
    assert found[True] >= 0.999


@every_kind
def test_the_same_seed_gives_the_same_bytes(kind, K):
    codebooks, codes, _ = arrays(1001, 4, K)
    first, second = (faiss.serialize_index(build_index(codebooks, codes, kind, seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.skipif(not faiss.get_num_gpus(), reason="no GPU here")
def test_gpu_scores():
    codebooks, codes, xq = arrays(1001, 4, 256)
    index = build_index(codebooks, codes, "ivfpq-all", nlist=5)
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    assert_search(index, brute_force(codebooks, codes, xq), xq, 10, 1e-3, np.arange(1001))


def test_search_exact_by_hand():
    codebooks = np.float32([[[1, 0], [0, 1]], [[1, 0], [-1, 0]]])  # M = 2, K = 2, d = 2
    codes = np.uint8([[0, 0], [1, 0], [0, 1]])
    D, I = search_exact(codebooks, codes, np.float32([[0.6, 0.8, 1, 0]]), k=3)
    np.testing.assert_array_equal(I, [[1, 0, 2]])
    np.testing.assert_allclose(D, [[1.8, 1.6, -0.4]], atol=1e-6)
    with pytest.raises(ValueError, match="k=4"):
        search_exact(codebooks, codes, np.float32([[0.6, 0.8, 1, 0]]), k=4)
    with pytest.raises(ValueError, match=r"\(nq, 4\)"):
        search_exact(codebooks, codes, np.float32([[0.6, 0.8, 1]]), k=1)


def test_search_exact_is_the_brute_force():
    codebooks, codes, xq = arrays(1001, 4, 16)
    D, I = search_exact(codebooks, codes, xq, 1001)
    scores = brute_force(codebooks, codes, xq)
    np.testing.assert_allclose(D, -np.sort(-scores, axis=1), atol=1e-6)
    np.testing.assert_allclose(D, np.take_along_axis(scores, I, axis=1), atol=1e-6)
    np.testing.assert_array_equal(np.sort(I, axis=1), np.tile(np.arange(1001), (len(xq), 1)))


@pytest.mark.parametrize(
    ("kind", "M", "nbits", "n", "message"),
    [
        ("flat", 4, 8, None, "choose one of pq, pqfs"),
        ("pqfs", 4, 8, None, "train with nbits=4, or choose 'pq'"),
        ("ivfpqfs", 4, 8, None, "train with nbits=4, or choose 'ivfpq'"),
        ("ivfpq-all", 4, 4, None, "train with nbits=8, or choose 'pq'"),
        ("ivfpq-all", 7, 8, None, "train with M=8 "),
        ("ivfpq-all", 6, 8, None, "train with M=4 "),
        ("pq", 4, 9, None, "nbits of 1 to 8"),
        ("pq", 4, 8, 0, "empty"),
        ("pqfs", 4, 4, 2**31, "make shards"),
    ],
)
def test_check_kind(kind, M, nbits, n, message):
    with pytest.raises(ValueError, match=message):
        check_kind(kind, M, nbits, n)


def test_check_kind_lets_the_rest_through():
    for kind in KINDS:
        check_kind(kind, 8, 4 if kind.endswith("fs") else 8, 1)
    for M in GPU_M:
        check_kind("ivfpq-all", M, 8)


def with_one(codebooks: np.ndarray, value: float) -> np.ndarray:
    changed = codebooks.copy()
    changed[1, 2, 3] = value
    return changed


CODEBOOKS, CODES, _ = arrays(100, 4, 16)
REFUSED = {
    "two-dimensional codebooks": ((CODEBOOKS[0], CODES), {}, r"\(M, K, d\), got shape \(16, 6\)"),
    "codebooks in a list": (([1], CODES), {}, "got list"),
    "float64 codebooks": ((CODEBOOKS.astype(float), CODES), {}, "float32, got float64"),
    "NaN": ((with_one(CODEBOOKS, np.nan), CODES), {}, "NaN"),
    "norm": ((with_one(CODEBOOKS, 2.0), CODES), {}, "norm 1"),
    "norm by little": ((CODEBOOKS * np.float32(1.0002), CODES), {}, "norm 1"),
    "K": ((CODEBOOKS[:, :12], CODES % 12), {}, r"K=12 is not 2\*\*nbits: train with K=16"),
    "K = 1": ((CODEBOOKS[:, :1], CODES % 1), {}, "train with K=2"),
    "K > 256": ((np.tile(CODEBOOKS, (1, 32, 1)), CODES), {}, "nbits=9"),
    "wrong M": ((CODEBOOKS, CODES[:, :3]), {}, r"\(n, 4\)"),
    "packed codes": ((CODEBOOKS, pack_codes(CODES, 4)), {}, "one byte a code even for K=16"),
    "int codes": ((CODEBOOKS, CODES.astype(int)), {}, "uint8, got int64"),
    "empty": ((CODEBOOKS, CODES[:0]), {}, "empty"),
    "code beyond K": ((CODEBOOKS[:, :8], CODES), {}, "reach 15, but a codebook has K=8"),
    "ids of a list": ((CODEBOOKS, CODES), {"ids": list(range(100))}, "int64 array, got list"),
    "ids of int32": ((CODEBOOKS, CODES), {"ids": np.arange(100, dtype=np.int32)}, "got int32"),
    "too few ids": ((CODEBOOKS, CODES), {"ids": np.arange(99)}, r"shape \(100,\)"),
    "id twice": ((CODEBOOKS, CODES), {"ids": np.arange(100) % 99}, "0 occurs more than once"),
    "id -1": ((CODEBOOKS, CODES), {"ids": np.arange(100) - 1}, "id -1"),
    "nlist of pq": ((CODEBOOKS, CODES), {"nlist": 4}, "choose 'ivfpq'"),
    "nprobe of pqfs": ((CODEBOOKS, CODES, "pqfs"), {"nprobe": 4}, "choose 'ivfpqfs'"),
    "nlist 0": ((CODEBOOKS, CODES, "ivfpq"), {"nlist": 0}, "choose 1 to 100"),
    "nlist above n": ((CODEBOOKS, CODES, "ivfpq"), {"nlist": 101}, "choose 1 to 100"),
    "nprobe above nlist": ((CODEBOOKS, CODES, "ivfpq"), {"nlist": 4, "nprobe": 5}, "choose 1 to nlist=4"),
    "refined pq": ((CODEBOOKS, CODES), {"refine": True}, "only FastScan"),
    "k_factor": ((CODEBOOKS, CODES, "pqfs"), {"refine": True, "k_factor": 0.5}, "k_factor=0.5"),
    "nprobe of gpu": ((*arrays(9, 4, 256)[:2], "ivfpq-all"), {"nlist": 4, "nprobe": 2}, "visits every list"),
    "nlist of gpu": ((*arrays(9, 4, 256)[:2], "ivfpq-all"), {"nlist": 10}, "choose 1 to 9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_build_refuses(case):
    arguments, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        build_index(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_views_of_arrays_are_taken():
    codebooks, codes, xq = arrays(202, 4, 256)
    ids = np.arange(202)[::2]
    index = build_index(np.asfortranarray(codebooks), np.asfortranarray(codes)[::2], ids=ids)
    assert_search(index, brute_force(codebooks, codes[::2], xq), xq, 10, 1e-5, ids)
