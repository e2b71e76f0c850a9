"""Baselines against FAISS called by hand, a Hamming search in numpy, and chance on real digits."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from mecoq_faiss.baselines import Baseline
from mecoq_faiss.evaluation import evaluate_search, recall_at_k

EVERY = [
    Baseline("PQ", 4),
    Baseline("PQ", 4, nbits=4, preprocess="centred+normalised", metric="IP"),
    Baseline("PQ", 3),  # 3 does not divide 64
    Baseline("OPQ", 4),
    Baseline("OPQ", 3, nbits=4, width=66, preprocess="normalised"),  # wider than the features
    Baseline("OPQ", 4, nbits=4, width=32, preprocess="centred", metric="IP"),
    Baseline("ITQ", 4),
    Baseline("ITQ", 4, preprocess="centred+normalised"),
    Baseline("PQ", 4, nbits=4, preprocess="standardised", metric="IP"),
    Baseline("LSH", 4, preprocess="centred"),
    Baseline("LSH", 16, preprocess="centred"),  # more bits than dimensions
    Baseline("Flat"),
    Baseline("Flat", preprocess="centred+normalised", metric="IP"),
    Baseline("PQ", 4, preprocess="centred+normalised", metric="IP", reduce="PCAR", width=32),
    Baseline("PQ", 4, nbits=4, preprocess="standardised+normalised", reduce="PCAW", width=64),  # 3 pixels are constant
    Baseline("RQ", 2, preprocess="normalised", metric="IP"),
    Baseline("RQ", 3),  # a byte of three for the norm
    Baseline("RQ", 4, nbits=4, preprocess="centred", metric="L2"),
    Baseline("LSQ", 2, preprocess="centred+normalised", metric="IP", reduce="PCA", width=32),
    Baseline("LSQ", 4, nbits=4, preprocess="centred+normalised", metric="IP"),
    Baseline("LSQ", 3, nbits=4, preprocess="centred"),
    Baseline("PRQ", 4, preprocess="centred+normalised", metric="IP"),
    Baseline("PRQ", 4, nbits=4, preprocess="centred"),
    Baseline("PLSQ", 4, nbits=4, preprocess="standardised+normalised", metric="IP"),
    Baseline("PLSQ", 2, preprocess="centred+normalised", metric="IP"),
    Baseline("RaBitQ", 12, preprocess="centred+normalised", metric="IP", reduce="PCAR", width=32),
    Baseline("RaBitQ", 12, preprocess="standardised", reduce="PCAR", width=32),
]


@pytest.mark.parametrize("setting", EVERY, ids=lambda setting: setting.name)
def test_every_baseline_beats_chance_and_repeats(setting, digits):
    xt, xb, xq, labels, labels_q = digits
    fitted = setting.fit(xt, seed=3)
    index = fitted.index(xb)
    assert index.ntotal == len(xb)
    found = evaluate_search(index, fitted.transform_queries(xq), labels_q, labels, 50)
    assert found["map"] > 0.3  # chance is 0.1

    D, I = fitted.search(index, xq, 20)
    assert D.shape == I.shape == (len(xq), 20)
    assert (np.diff(D) <= 0).all()
    again = setting.fit(xt, seed=3)
    np.testing.assert_array_equal(again.search(again.index(xb), xq, 20)[0], D)


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_pq_equals_faiss_by_hand(digits, metric):
    xt, xb, xq, *_ = digits
    mean = xt.mean(0)
    by_hand = faiss.IndexPQ(64, 8, 4, faiss.METRIC_L2 if metric == "L2" else faiss.METRIC_INNER_PRODUCT)
    by_hand.pq.cp.seed = 5
    by_hand.train(xt - mean)
    by_hand.add(xb - mean)
    D, _ = by_hand.search(xq - mean, 30)
    fitted = Baseline("PQ", 4, nbits=4, preprocess="centred", metric=metric).fit(xt, seed=5)
    got, _ = fitted.search(fitted.index(xb), xq, 30)
    np.testing.assert_allclose(got, -D if metric == "L2" else D, rtol=1e-4, atol=1e-2)


def test_zero_padding_changes_no_distance(digits):
    xt, xb, xq, *_ = digits
    padded = [np.pad(x, ((0, 0), (0, 2))) for x in (xt, xb, xq)]
    setting = Baseline("PQ", 3)
    ours, by_hand = setting.fit(xt), setting.fit(padded[0])
    D, I = ours.search(ours.index(xb), xq, 30)
    want_D, want_I = by_hand.search(by_hand.index(padded[1]), padded[2], 30)
    np.testing.assert_array_equal(D, want_D)
    np.testing.assert_array_equal(I, want_I)


def test_opq_improves_on_its_first_rotation(digits):
    xt = digits[0]
    fitted = Baseline("OPQ", 2, nbits=4).fit(xt, seed=7)
    rotation = faiss.downcast_VectorTransform(fitted.trained.chain.at(0))
    A = faiss.vector_to_array(rotation.A).reshape(64, 64)
    np.testing.assert_allclose(A @ A.T, np.eye(64), atol=1e-4)

    first = faiss.RandomRotationMatrix(64, 64)
    first.init(7)
    by_hand = faiss.IndexPreTransform(first, faiss.IndexPQ(64, 4, 4))
    by_hand.train(xt)
    ours, theirs = (((index.sa_decode(index.sa_encode(xt)) - xt) ** 2).sum() for index in (fitted.trained, by_hand))
    assert ours < 0.95 * theirs


@pytest.mark.parametrize("preprocess", ["centred+normalised", "standardised+normalised"])
def test_flat_equals_numpy(digits, preprocess):
    xt, xb, xq, *_ = digits
    std = xt.std(0)
    scale = np.maximum(std, 0.1 * std.mean()) if "standardised" in preprocess else 1  # some pixels are always white

    def prepare(x):
        centerd = (x - xt.mean(0)) / scale
        return centerd / np.linalg.norm(centerd, axis=1, keepdims=True)

    fitted = Baseline("Flat", preprocess=preprocess, metric="IP").fit(xt)
    D, _ = fitted.search(fitted.index(xb), xq, 25)
    want = np.sort(prepare(xq) @ prepare(xb).T, axis=1)[:, ::-1][:, :25]
    np.testing.assert_allclose(D, want, atol=1e-5)


@pytest.mark.parametrize("method", ["ITQ", "LSH"])
def test_hashing_equals_a_hamming_search_in_numpy(digits, method):
    xt, xb, xq, *_ = digits
    fitted = Baseline(method, 2, preprocess="centred").fit(xt)
    centring, rotation = (faiss.downcast_VectorTransform(fitted.trained.chain.at(i)) for i in range(2))
    np.testing.assert_allclose(centring.apply(xb), xb - xt.mean(0), atol=1e-4)
    signs_q, signs_b = (rotation.apply(centring.apply(x)) > 0 for x in (xq, xb))
    assert signs_b.shape == (len(xb), 16)
    hamming = (signs_q[:, None, :] != signs_b[None, :, :]).sum(2)
    D, I = fitted.search(fitted.index(xb), xq, 40)
    np.testing.assert_array_equal(-D, np.sort(hamming, axis=1)[:, :40])
    np.testing.assert_array_equal(np.take_along_axis(hamming, I, 1), -D)


def test_index_is_plain_faiss(digits, tmp_path):
    xt, xb, xq, *_ = digits
    fitted = Baseline("OPQ", 4, nbits=4, width=32, preprocess="centred+normalised").fit(xt)
    index = fitted.index(xb)
    faiss.write_index(index, str(tmp_path / "x.index"))
    np.testing.assert_array_equal(faiss.read_index(str(tmp_path / "x.index")).search(xq, 5)[0], index.search(xq, 5)[0])
    assert fitted.trained.ntotal == 0
    assert index.sa_code_size() == 4


def test_other_metric_keeps_the_codes(digits):
    xt, xb, xq, *_ = digits
    setting = Baseline("PQ", 4, nbits=4, preprocess="centred")
    switched = setting.fit(xt).with_metric("IP")
    direct = replace(setting, metric="IP").fit(xt)
    assert switched.baseline == direct.baseline
    np.testing.assert_array_equal(
        switched.search(switched.index(xb), xq, 9)[0], direct.search(direct.index(xb), xq, 9)[0]
    )


def test_more_bytes_find_more_neighbors(digits):
    xt, xb, xq, *_ = digits
    exact = Baseline("Flat").fit(xt)
    _, neighbors = exact.search(exact.index(xb), xq, 10)
    recalls = []
    for num_bytes in (1, 4, 16):
        fitted = Baseline("PQ", num_bytes).fit(xt)
        recalls.append(recall_at_k(fitted.search(fitted.index(xb), xq, 10)[1], neighbors, 10))
    assert recalls == sorted(recalls) and recalls[-1] > 0.7


@pytest.mark.parametrize(
    ("setting", "name", "min_rows"),
    [
        (Baseline("PQ", 4), "PQ 4x8, raw, L2", 256),
        (Baseline("PQ", 3, nbits=4, preprocess="centred", metric="IP"), "PQ 6x4, centred, IP", 16),
        (Baseline("OPQ", 4, width=64, preprocess="centred", metric="IP"), "OPQ 4x8 to 64, centred, IP", 256),
        (Baseline("ITQ", 4), "ITQ 32 bits, raw", 32),
        (Baseline("LSH", 2, preprocess="standardised"), "LSH 16 bits, standardised", 1),
        (Baseline("PQ", 4, metric="IP", reduce="PCAR", width=64), "PQ 4x8 of PCAR64, raw, IP", 256),
        (Baseline("RQ", 4, preprocess="normalised", metric="IP"), "RQ 4x8, normalised, IP", 256),
        (Baseline("LSQ", 4, nbits=4, preprocess="centred"), "LSQ 6x4 and norm, centred, L2", 16),
        (Baseline("PRQ", 4, metric="IP"), "PRQ 2x2x8, raw, IP", 256),
        (Baseline("RQ", 4, nbits=4, metric="IP", reduce="PCAW", width=128), "RQ 8x4 of PCAW128, raw, IP", 128),
        (Baseline("RaBitQ", 16, reduce="PCAR", width=64), "RaBitQ of PCAR64, raw, L2", 64),
        (Baseline("Flat", preprocess="centred"), "Flat, centred, L2", 1),
    ],
)
def test_what_a_setting_is_called_and_needs(setting, name, min_rows):
    assert (setting.name, setting.min_rows) == (name, min_rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Baseline("PQ", 0), "num_bytes"),
        (lambda x: Baseline("Flat", 4), "num_bytes"),
        (lambda x: Baseline("SQ", 4), "choose one of"),  # type: ignore[arg-type]
        (lambda x: Baseline("PQ", 4, nbits=6), "choose one of"),
        (lambda x: Baseline("ITQ", 4, metric="IP"), "Hamming"),
        (lambda x: Baseline("OPQ", 4, width=30), "multiple of M=4"),
        (lambda x: Baseline("PQ", 4, width=32), "only OPQ and reduced"),
        (lambda x: Baseline("PQ", 4, reduce="PCA", width=30), "multiple of M=4"),
        (lambda x: Baseline("PQ", 4, reduce="PCA"), "with a width"),
        (lambda x: Baseline("PRQ", 4, metric="IP", reduce="PCA", width=32), "reduce='PCA' for PRQ"),
        (lambda x: Baseline("RQ", 1), "L2 takes a byte for the norm, give 2 or more"),
        (lambda x: Baseline("PRQ", 4), "M=3 codebooks: they must divide into 2 halves"),
        (lambda x: Baseline("RaBitQ", 8, reduce="PCAR", width=1), "more than 8 bytes"),
        (lambda x: Baseline("RaBitQ", 12, reduce="PCAR", width=64), r"num_bytes - 8\) = 32"),
        (lambda x: Baseline("PQ", 4, nbits=4, reduce="PCA", width=72).fit(x), "no more components"),
        (lambda x: Baseline("PQ", 4, reduce="PCA", width=32).fit(x[:90]), "256 training rows"),
        (lambda x: Baseline("LSH", 4).fit(x, effort=0), "effort=0"),
        (lambda x: Baseline("RQ", 2, nbits=4).fit(x).with_metric("IP"), "keep their codes"),
        (lambda x: Baseline("PQ", 4).fit(x[:255]), "256 training rows"),
        (lambda x: Baseline("ITQ", 16).fit(x), "one bit a dimension"),
        (lambda x: Baseline("PQ", 4).fit(np.where(x == 3, np.nan, x)), "NaN"),
        (lambda x: Baseline("PQ", 4, nbits=4).fit(x).index(x[0]), r"want \(n, F\)"),
        (lambda x: Baseline("PQ", 4).fit(x[0]), r"\(64,\): want \(n, F\)"),
    ],
)
def test_errors_say_what_to_mend(digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(digits[0])
