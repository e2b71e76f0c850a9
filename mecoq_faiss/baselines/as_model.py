"""The PQ that k-means gives, as a model: its codes can be exported, searched and served beside the learned ones.

A product quantizer is an additive one whose codewords are zero outside their own segment, so that its codes, its index
and its scores are what `codes=additive` has.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mecoq_faiss.baselines.baseline import Array, Baseline
from mecoq_faiss.data.features import STD_FLOOR
from mecoq_faiss.model import MeCoQ


def kmeans_model(model: MeCoQ, xt: Array, seed: int = 0) -> MeCoQ:
    """FAISS's PQ of a model's size on its own backbone's features, normalised, standardised and normalised again.

    So does the PQ "standardised" of docs/collections.md, but for the first division by the norm.

    Args:
        model: whose backbone, M and nbits are taken.
        xt: (nt, F) features of that backbone to train on, at least K; M divides F.
        seed: of k-means.

    Returns:
        A model of additive codes, in eval mode.

    Raises:
        ValueError: too few rows, or an F that M does not divide.
    """
    c = model.config
    width = xt.shape[1]
    if width % c.M:
        raise ValueError(
            f"features of width {width} cannot be cut into M={c.M} segments: train with an M that divides it"
        )
    config = dataclasses.replace(c, codes="additive", metric="cosine", projection="linear", D=width, trainable_layers=0)
    x = F.normalize(torch.from_numpy(np.array(xt, dtype=np.float32)), dim=1)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = 1 / std.clamp_min(STD_FLOOR * std.mean()).clamp_min(1e-12)
    made = MeCoQ(dataclasses.replace(config, weights="none"))
    made.config = config
    made.backbone = copy.deepcopy(model.backbone)
    linear, quantizer = made.projection, made.additive
    assert isinstance(linear, nn.Linear) and quantizer is not None
    with torch.no_grad():
        linear.weight.copy_(torch.diag(scale))
        linear.bias.copy_(-mean * scale)
        z = F.normalize(linear(x), dim=1).numpy()
        fitted = Baseline("PQ", c.M * c.nbits // 8, c.nbits, "raw", "IP").fit(z, seed)  # which owns its centroids
        code: Any = faiss.downcast_index(fitted.trained.index)
        centroids = faiss.vector_to_array(code.pq.centroids).reshape(c.M, c.K, -1)
        codebooks = torch.zeros(c.M, c.K, width)
        for m, segment in enumerate(codebooks.view(c.M, c.K, c.M, -1).unbind(0)):
            segment[:, m] = torch.from_numpy(centroids[m])
        quantizer.set_codebooks(codebooks)
    return made.eval()
