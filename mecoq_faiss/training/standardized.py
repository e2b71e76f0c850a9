"""Rows of features, standardized and of norm 1, read when they are taken."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.data.features import FeatureRows
from mecoq_faiss.model import Standardize

MEASURED = 5000  # rows of which mean and scale are taken


class Standardized:
    """Features (n, F), or of (n, V, F) the first view."""

    def __init__(self, features: np.ndarray | FeatureRows, device: str) -> None:
        self.features, self.device = features, device
        rows = np.unique(np.linspace(0, len(features) - 1, MEASURED).astype(np.int64))
        self.standardize = Standardize(features.shape[-1])
        self.standardize.fit(self._read(rows))
        self.standardize.to(device)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> Tensor:
        """Rows (b,) -> (b, F) float32 of norm 1."""
        return F.normalize(self.standardize(self._read(rows).to(self.device)), dim=1)

    def _read(self, rows: np.ndarray) -> Tensor:
        x = np.array(self.features[rows], dtype=np.float32)
        return torch.from_numpy(x if x.ndim == 2 else x[:, 0])
