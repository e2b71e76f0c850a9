"""Additive codes against FAISS's own decoding: scores, codes, bytes."""

import faiss
import numpy as np
import pytest

from mecoq_faiss.baselines import Baseline
from mecoq_faiss.baselines.codes import ADDITIVE

ADDED = [
    Baseline("RQ", 2, preprocess="centred+normalised", metric="IP"),
    Baseline("RQ", 4, nbits=4, preprocess="centred"),
    Baseline("LSQ", 4, nbits=4, preprocess="centred+normalised", metric="IP"),
    Baseline(
        "PRQ",
        4,
        nbits=4,
        preprocess="centred+normalised",
        metric="IP",
    ),
    Baseline("PLSQ", 4, nbits=4, preprocess="centred"),
    Baseline("RQ", 2, preprocess="centred+normalised", metric="IP", reduce="PCA", width=32),
]


def pieces(fitted):
    """The transforms, and the quantizer inside."""
    chain = fitted.trained.chain
    transforms = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
    return transforms, getattr(faiss.downcast_index(fitted.trained.index), ADDITIVE[fitted.baseline.method])


@pytest.mark.parametrize("setting", ADDED, ids=lambda setting: setting.name)
def test_scores_are_those_of_the_decoded_vectors(setting, digits):
    xt, xb, xq, *_ = digits
    fitted = setting.fit(xt)
    transforms, quantizer = pieces(fitted)
    for transform in transforms:
        xb, xq = transform.apply(xb), transform.apply(xq)
    decoded = quantizer.decode(quantizer.compute_codes(xb))
    products = xq @ decoded.T
    want = products if setting.metric == "IP" else 2 * products - (decoded**2).sum(1)
    D, I = fitted.search(fitted.index(digits[1]), digits[2], 10)
    off = D - np.take_along_axis(want, I, 1)
    if setting.metric == "L2":
        off -= off.mean(1, keepdims=True)  # FastScan leaves out the query's norm
    tolerance = 0.06 if setting.nbits == 4 else 1e-4  # 8-bit tables, norms of two 4-bit codes
    assert (abs(off) / np.ptp(want, axis=1, keepdims=True)).max() < tolerance


@pytest.mark.parametrize("setting", ADDED, ids=lambda setting: setting.name)
def test_codes_are_the_chosen_codewords(setting, digits):
    """One byte a code, the byte of a norm left out: the codewords that they name add up to the decoded vector."""
    xt, xb, *_ = digits
    fitted = setting.fit(xt)
    transforms, quantizer = pieces(fitted)
    x = xb
    for transform in transforms:
        x = transform.apply(x)
    codes = fitted.codes(xb)
    assert codes.shape == (len(xb), setting.M) and codes.max() < 2**setting.nbits
    packed = quantizer.compute_codes(x)
    assert packed.shape[1] == setting.num_bytes
    parts = [quantizer]
    if setting.method in ("PRQ", "PLSQ"):
        parts = [faiss.downcast_AdditiveQuantizer(quantizer.subquantizer(i)) for i in range(2)]
    decoded, first = [], 0
    for part in parts:
        books = faiss.vector_to_array(part.codebooks).reshape(part.M, 2**setting.nbits, part.d)
        decoded.append(sum(books[m, codes[:, first + m]] for m in range(part.M)))
        first += part.M
    np.testing.assert_allclose(np.hstack(decoded), quantizer.decode(packed), atol=1e-4)


def test_local_search_sees_a_bounded_number_of_rows(digits, monkeypatch):
    seen = []
    train = faiss.IndexLocalSearchQuantizerFastScan.train
    monkeypatch.setattr("mecoq_faiss.baselines.codes.LSQ_ROWS", 100)
    monkeypatch.setattr(
        faiss.IndexLocalSearchQuantizerFastScan, "train", lambda self, x: (seen.append(len(x)), train(self, x))
    )
    Baseline("LSQ", 2, nbits=4, metric="IP").fit(digits[0], effort=0.1)
    assert seen == [100]


def test_residuals_of_fewer_rows_than_dimensions(digits):
    """FAISS's k-means in more and more components needs as many rows as there are."""
    wide = np.hstack([digits[0]] * 11)  # 704
    assert Baseline("RQ", 2, nbits=4, metric="IP").fit(wide[:600]).index(wide).ntotal == 600
