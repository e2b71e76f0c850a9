"""Transforms before the code, against numpy: principal components, rotated, whitened, normalised again."""

import numpy as np
import pytest

from mecoq_faiss.baselines.chain import Chains, transformed


@pytest.mark.parametrize("preprocess", ["normalised", "standardised+normalised"])
def test_components_are_those_of_numpy_and_normalised_again(digits, preprocess):
    xt, xb, *_ = digits
    chains = Chains(xt)
    prepared, x = chains.get(preprocess)
    mean = x.mean(0)
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    want = (transformed(prepared, xb) - mean) @ axes[:20].T
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    for reduce in ("PCA", "PCAR"):
        transforms, _ = chains.get(preprocess, reduce, 20)
        got = transformed(transforms, xb)
        np.testing.assert_allclose(got @ got.T, want @ want.T, atol=1e-3)  # whatever the signs, or the rotation
    assert abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-5


def test_whitened_components_have_equal_variance(digits):
    transforms, x = Chains(digits[0]).get("centred", "PCAW", 32)
    covariance = np.cov(x.T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(32), atol=1e-2)
    np.testing.assert_array_equal(transformed(transforms, digits[0]), x)


def test_directions_without_variance_are_not_blown_up(digits):
    """Three pixels of the digits are constant."""
    _, x = Chains(digits[0]).get("centred", "PCAW", 64)
    assert np.isfinite(x).all() and x.std(0).max() < 1.1 * x.std(0)[0]


def test_what_is_kept_is_what_is_made_anew(digits):
    chains = Chains(digits[0])
    asked = [("centred", "PCA", 16), ("centred", "PCAW", 16), ("raw", "none", None), ("centred", "PCA", 16)]
    for key in asked:
        np.testing.assert_array_equal(chains.get(*key)[1], Chains(digits[0]).get(*key)[1])
