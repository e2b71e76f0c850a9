"""Every FAISS kind against plain numpy: decode, multiply, compare. Ties are compared by score, never by place."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import (
    KINDS,
    build_index,
    check_kind,
    describe_index,
    load_index,
    pair_codebooks,
    read_codebooks,
    read_codes,
    save_index,
    simd_level,
)
from mecoq_faiss.index.build import GPU_M
from mecoq_faiss.index.codes import decode_codes, pack_codes, unpack_codes
from mecoq_faiss.index.exhaustive import fastscan
from mecoq_faiss.index.inverted_lists import coarse_centroids, default_nlist, default_nprobe
from tests.exact import search_exact

CASES: list[tuple[str, int, int, dict[str, Any]]] = [  # kind, M, K, options
    ("pq", 2, 256, {}),
    ("pq", 3, 8, {}),
    ("pq", 4, 16, {}),
    ("pq", 8, 256, {}),
    ("pqfs", 3, 16, {}),
    ("pqfs", 8, 16, {}),
    ("pqfs", 3, 16, {"refine": True}),
    ("pqfs", 8, 16, {"refine": True}),
    ("ivfpq", 4, 256, {"nlist": 7}),
    ("ivfpq", 5, 16, {"nlist": 1}),
    ("ivfpqfs", 8, 16, {"nlist": 7}),
    ("ivfpqfs", 8, 16, {"nlist": 7, "refine": True}),
    ("gpu", 4, 256, {}),
    ("gpu", 2, 256, {"nlist": 7}),
]
names = [f"{kind}-M{M}-K{K}-{'-'.join(options)}" for kind, M, K, options in CASES]
every_case = pytest.mark.parametrize(("kind", "M", "K", "options"), CASES, ids=names)
every_kind = pytest.mark.parametrize(
    ("kind", "K"), [("pq", 256), ("pqfs", 16), ("ivfpq", 256), ("ivfpqfs", 16), ("gpu", 256)], ids=KINDS
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small searches that share busy cores wait for each other's threads longer than they search."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def arrays(n: int, M: int, K: int, d: int = 6, nq: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random codebooks (M, K, d), codes (n, M) and queries (nq, M * d) of segment norm 1."""
    rng = np.random.default_rng(n + M + K)
    codebooks = unit(rng.standard_normal((M, K, d)))
    codes = rng.integers(0, K, (n, M), dtype=np.uint8)
    return codebooks, codes, unit(rng.standard_normal((nq, M, d))).reshape(nq, M * d)


def brute_force(codebooks: np.ndarray, codes: np.ndarray, xq: np.ndarray) -> np.ndarray:
    """Every score, (nq, n), one codeword at a time."""
    scores = np.zeros((len(xq), len(codes)))
    for m, segment in enumerate(np.split(xq.astype(np.float64), len(codebooks), axis=1)):
        scores += segment @ codebooks[m, codes[:, m]].T
    return scores


def probe_all(index: faiss.Index) -> None:
    try:
        ivf = faiss.extract_index_ivf(index)
    except RuntimeError:
        return
    ivf.nprobe = ivf.nlist


def assert_search(index: faiss.Index, scores: np.ndarray, xq: np.ndarray, k: int, tol: float, ids: np.ndarray) -> None:
    """The k best scores, each under an id that truly has that score, no id twice."""
    D, I = index.search(xq, k)
    np.testing.assert_allclose(D, -np.sort(-scores, axis=1)[:, :k], atol=tol)
    rows = np.searchsorted(ids, I)
    np.testing.assert_array_equal(ids[rows], I)
    np.testing.assert_allclose(D, np.take_along_axis(scores, rows, axis=1), atol=tol)
    assert all(len(set(row)) == k for row in I.tolist())


def table_rounding(codebooks: np.ndarray, xq: np.ndarray) -> float:
    """FastScan's lookup tables have 8 bits: at most half a step an entry, M entries a score."""
    M, _, d = codebooks.shape
    tables = np.einsum("qmd,mkd->qmk", xq.reshape(-1, M, d), codebooks)
    return 0.5 * M * float(np.ptp(tables, axis=2).max()) / 255 + 1e-5


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


@every_case
def test_round_trip_through_a_file(kind, M, K, options, tmp_path):
    codebooks, codes, xq = arrays(1001, M, K)
    ids = np.arange(1001) * 3 + (1 << 33)
    index = build_index(codebooks, codes, kind, ids=ids, **options)
    save_index(index, tmp_path / "index.faiss")
    D, I = index.search(xq, 10)
    for mmap in (False, True):
        again = load_index(tmp_path / "index.faiss", mmap=mmap)
        np.testing.assert_array_equal(read_codebooks(again), codebooks)
        np.testing.assert_array_equal(read_codes(again), codes)
        assert describe_index(again) == describe_index(index)
        D_again, I_again = again.search(xq, 10)
        np.testing.assert_array_equal(D_again, D)
        np.testing.assert_array_equal(I_again, I)
    plain = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(plain.search(xq, 10)[0], D)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


@every_kind
def test_added_vectors_get_the_codes_of_equation_15(kind, K):
    codebooks, codes, _ = arrays(300, 4, K)
    index = build_index(codebooks, codes, kind)
    z = np.random.default_rng(1).standard_normal((257, 4 * 6)).astype(np.float32)  # raw embeddings, any norm
    index.add(z)
    expected = np.einsum("bmd,mkd->bmk", z.reshape(257, 4, 6), codebooks).argmax(axis=2)
    np.testing.assert_array_equal(read_codes(index)[300:], expected)
    np.testing.assert_array_equal(read_codes(index)[:300], codes)


@pytest.mark.parametrize("kind", ["pqfs", "ivfpqfs"])
def test_fastscan_finds_nearly_the_same_neighbours(kind):
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


def clustered(n: int, M: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes that neighbours share, as images' do: Eq. 15 of points around 100 centres."""
    rng = np.random.default_rng(n)
    codebooks, _, _ = arrays(1, M, K, d=8)
    centres = rng.standard_normal((100, M, 8))
    x, xq = (unit(centres[rng.integers(0, 100, size)] + 0.5 * rng.standard_normal((size, M, 8))) for size in (n, 100))
    return codebooks, np.einsum("bmd,mkd->bmk", x, codebooks).argmax(axis=2).astype(np.uint8), xq.reshape(100, -1)


@pytest.mark.parametrize(("kind", "K"), [("ivfpq", 256), ("ivfpqfs", 16)])
def test_stored_nprobe_finds_most_neighbours(kind, K):
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


def test_more_lists_than_different_codes():
    codebooks, _, xq = arrays(1, 2, 2)
    codes = np.random.default_rng(0).integers(0, 2, (200, 2), dtype=np.uint8)
    index = build_index(codebooks, codes, "ivfpq", nlist=64, nprobe=64)
    assert_search(index, brute_force(codebooks, codes, xq), xq, 10, 1e-5, np.arange(200))


@every_kind
def test_the_same_seed_gives_the_same_bytes(kind, K):
    codebooks, codes, _ = arrays(1001, 4, K)
    first, second = (faiss.serialize_index(build_index(codebooks, codes, kind, seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_gpu_kind_is_what_a_gpu_takes():
    index = build_index(*arrays(1001, 4, 256)[:2], "gpu", nlist=5)
    assert type(index) is faiss.IndexIVFPQ and index.by_residual and index.pq.nbits == 8
    assert index.nlist == index.nprobe == 5 and not index.quantizer.reconstruct_n(0, 5).any()
    assert [index.invlists.list_size(number) for number in range(5)] == [201, 200, 200, 200, 200]


@pytest.mark.skipif(not faiss.get_num_gpus(), reason="no GPU here")
def test_gpu_scores():
    codebooks, codes, xq = arrays(1001, 4, 256)
    index = build_index(codebooks, codes, "gpu", nlist=5)
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    assert_search(index, brute_force(codebooks, codes, xq), xq, 10, 1e-3, np.arange(1001))


@pytest.mark.parametrize("K", [16, 2])
def test_pairs_stand_for_the_same_vectors(K):
    codebooks, codes, _ = arrays(1001, 6, K)
    pairs, paired = pair_codebooks(codebooks, codes)
    assert pairs.shape == (3, K * K, 12)
    np.testing.assert_array_equal(decode_codes(pairs, paired), decode_codes(codebooks, codes))
    if K == 16:
        np.testing.assert_array_equal(paired, faiss.pack_bitstrings(codes, 4))
    with pytest.raises(ValueError, match="even M"):
        pair_codebooks(codebooks[:3], codes[:, :3])


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("M", [1, 3, 8])
def test_packing_is_that_of_faiss(nbits, M):
    codes = np.random.default_rng(nbits).integers(0, 1 << nbits, (77, M), dtype=np.uint8)
    packed = pack_codes(codes, nbits)
    np.testing.assert_array_equal(packed, faiss.pack_bitstrings(codes, nbits))
    np.testing.assert_array_equal(unpack_codes(packed, M, nbits), codes)


def test_decoding_is_that_of_faiss():
    codebooks, codes, _ = arrays(1001, 3, 256)
    np.testing.assert_array_equal(build_index(codebooks, codes).reconstruct_n(0, 1001), decode_codes(codebooks, codes))


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
    assert describe_index(build_index(*arrays(7, 4, 256)[:2], "gpu"))["kind"] == "gpu"
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


def test_default_lists():
    assert [default_nlist(n) for n in (1, 77, 78, 1001, 50_000, 10**6, 10**8)] == [1, 1, 2, 16, 1024, 4096, 32768]
    assert [default_nprobe(nlist) for nlist in (1, 2, 16, 1024)] == [1, 2, 8, 64]
    codebooks, codes, _ = arrays(5_000, 2, 16)
    assert coarse_centroids(codebooks, codes, 4, seed=0).shape == (4, 12)  # from a sample of 1,024


@pytest.mark.parametrize(
    ("kind", "M", "nbits", "n", "message"),
    [
        ("flat", 4, 8, None, "choose one of pq, pqfs"),
        ("pqfs", 4, 8, None, "train with nbits=4, or choose 'pq'"),
        ("ivfpqfs", 4, 8, None, "train with nbits=4, or choose 'ivfpq'"),
        ("gpu", 4, 4, None, "train with nbits=8, or choose 'pq'"),
        ("gpu", 7, 8, None, "train with M=8 "),
        ("gpu", 6, 8, None, "train with M=4 "),
        ("pq", 4, 9, None, "nbits of 1 to 8"),
        ("pq", 4, 8, 0, "empty"),
    ],
)
def test_check_kind(kind, M, nbits, n, message):
    with pytest.raises(ValueError, match=message):
        check_kind(kind, M, nbits, n)


def test_check_kind_lets_the_rest_through():
    for kind in KINDS:
        check_kind(kind, 8, 4 if kind.endswith("fs") else 8, 1)
    for M in GPU_M:
        check_kind("gpu", M, 8)


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
    "nprobe of gpu": ((*arrays(9, 4, 256)[:2], "gpu"), {"nlist": 4, "nprobe": 2}, "visits every list"),
    "nlist of gpu": ((*arrays(9, 4, 256)[:2], "gpu"), {"nlist": 10}, "choose 1 to 9"),
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


@every_kind
def test_damaged_files(kind, K, tmp_path):
    path = tmp_path / "index.faiss"
    index = build_index(*arrays(1001, 4, K)[:2], kind, ids=np.arange(1001), refine=kind.endswith("fs"))
    save_index(index, path)
    data = path.read_bytes()
    for size in [*range(0, len(data), len(data) // 50), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut short") as caught:
            load_index(path)
        assert "\n" not in str(caught.value)
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    assert limits == (1 << 40, 0)  # FAISS's own, put back


def test_foreign_and_missing_files(tmp_path):
    for content in (b"", b"not an index of any kind", b"\x89HDF\r\n\x1a\n" * 100):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(ValueError, match="no FAISS index"):
            load_index(tmp_path / "foreign")
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="no index file"):
            load_index(missing)


def test_a_size_that_the_file_cannot_hold(tmp_path):
    path = tmp_path / "index.faiss"
    save_index(build_index(*arrays(10, 1, 2)[:2]), path)
    data = bytearray(path.read_bytes())
    position = data.index((10 * 1).to_bytes(8, "little"), 37)  # the length of the codes
    data[position : position + 8] = (1 << 39).to_bytes(8, "little")  # half a terabyte, within FAISS's own limit
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cut short"):
        load_index(path)


def test_loads_that_overlap_leave_the_limits_of_faiss_as_they_were(tmp_path, monkeypatch):
    """The limits are the process's: the second load to begin is the last to end, and must not restore the first's."""
    paths = [tmp_path / "first.faiss", tmp_path / "second.faiss"]
    for path, n in zip(paths, (5, 10), strict=True):
        save_index(build_index(*arrays(n, 2, 16)[:2]), path)
    read, limits = faiss.read_index, faiss.get_deserialization_vector_byte_limit
    before, seen, second_reads, first_is_done = limits(), {}, threading.Event(), threading.Event()

    def slow_read(file, *flags):
        first = not seen
        seen[len(seen)] = limits()
        if first:
            second_reads.wait(0.5)
        else:
            second_reads.set()
            first_is_done.wait(5)
        return read(file, *flags)

    monkeypatch.setattr(faiss, "read_index", slow_read)
    threads = [threading.Thread(target=load_index, args=[path]) for path in paths]
    threads[0].start()
    while not seen:
        time.sleep(0.001)
    threads[1].start()
    threads[0].join()
    first_is_done.set()
    threads[1].join()
    assert limits() == before and list(seen.values()) == [path.stat().st_size for path in paths]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.faiss"
    save_index(build_index(CODEBOOKS, CODES), path)
    before = path.read_bytes()

    def fail(index: faiss.Index, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(OSError, match="disk full"):
        save_index(build_index(CODEBOOKS, CODES), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.faiss"]


def test_simd_level_is_named():
    assert simd_level()
