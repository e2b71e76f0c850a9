"""Figures of a contender by hand: quality with and without labels, size, time."""

from __future__ import annotations

import faiss
import numpy as np
import torch

from mecoq_faiss.comparison.contenders import Contender
from mecoq_faiss.comparison.figures import Task, quality


def test_quality_without_labels_by_hand() -> None:
    x = np.eye(16, dtype=np.float32)
    index = faiss.IndexFlatL2(16)
    index.add(x)
    contender = Contender("Flat", "Flat", 64, index, lambda q: q)
    views = np.array([[0.9, 0.1, *[0] * 14], [0, 0.1, 0.9, *[0] * 13]], np.float32)
    found = quality(contender, Task(x[:1], None, None, None, views, np.array([0, 1]), 5))
    np.testing.assert_array_equal(found["per_query"]["same_image"], [1, 1])
    assert found["same_image_at"]["1"] == 0.5 and found["same_image_at"]["2"] == 1.0 and found["same_image"] == 1.0
    assert torch.is_inference_mode_enabled() is False
