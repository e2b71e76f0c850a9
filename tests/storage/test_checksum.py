"""The checksum of named tensors against its definition; it changes with all that it covers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from mecoq_faiss.storage.checksum import checksum


def test_by_its_definition() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7)
    expected = hashlib.sha256(b"a (2, 3) torch.float32" + a.tobytes() + b"b () torch.int64" + b.tobytes())
    state = {"b": torch.from_numpy(b), "a": torch.from_numpy(a)}  # the order does not count
    assert checksum(state) == expected.hexdigest()
    assert checksum({}) == hashlib.sha256().hexdigest()


def test_layout_and_gradients_do_not_count() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    transposed = x.T.contiguous().T
    assert not transposed.is_contiguous()
    assert checksum({"x": x}) == checksum({"x": transposed}) == checksum({"x": torch.nn.Parameter(x)})


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.ones(2, 2)},
        {"x": torch.ones(4)},
        {"x": torch.ones(2, 2, dtype=torch.float64)},
        {"x": torch.ones(2, 2, dtype=torch.bfloat16)},
        {"x": torch.tensor([[1, 1], [1, torch.finfo().eps + 1]])},
        {"x": torch.ones(2, 2), "y": torch.ones(0)},
        {"x": torch.ones(2, 2).view(torch.int32)},  # the same bytes
    ],
    ids=["name", "shape", "float64", "bfloat16", "last bit", "empty one more", "type"],
)
def test_all_that_it_covers(other: dict[str, Tensor]) -> None:
    assert checksum(other) != checksum({"x": torch.ones(2, 2)})
