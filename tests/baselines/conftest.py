"""What the tests of baselines share."""

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits():
    """(xt, xb, xq, labels of xb, labels of xq)."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    return x[:600], x[600:1600], x[1600:], y[600:1600], y[1600:]
