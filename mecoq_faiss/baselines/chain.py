"""What is done to features before they are coded: centred, normalised, standardised, reduced; by FAISS transforms."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mecoq_faiss.data.features import STD_FLOOR

Array = NDArray[Any]
WHITEN_FLOOR = 1e-6  # of the whole variance, added to each eigenvalue: a direction without variance is not blown up


class Chains:
    """The transforms of training features, and what they make of them: the last ones are kept, for the next setting.

    Settings in the order of their `preprocess` share one principal component analysis.

    Args:
        xt: (nt, F) training features.
    """

    def __init__(self, xt: Array) -> None:
        self.xt = finite_features(xt)
        self._preprocessed: tuple[str, list[Any], Array] | None = None
        self._axes: tuple[str, Any] | None = None
        self._made: tuple[tuple[str, str, int | None], list[Any], Array] | None = None

    def get(self, preprocess: str, reduce: str = "none", width: int | None = None) -> tuple[list[Any], Array]:
        """(transforms, xt transformed), trained; see `Baseline` for the names.

        Reduced features are normalised again where `preprocess` normalises.
        """
        key = (preprocess, reduce, width)
        if self._made is None or self._made[0] != key:
            transforms, x = self._preprocess(preprocess)
            if reduce != "none":
                assert width is not None
                more = [_reduction(self._principal_axes(preprocess, x), reduce, width)]
                if "normalised" in preprocess:
                    more.append(faiss.NormalizationTransform(width, 2.0))
                transforms, x = transforms + more, transformed(more, x)
            self._made = key, transforms, x
        return self._made[1:]

    def _preprocess(self, preprocess: str) -> tuple[list[Any], Array]:
        if self._preprocessed is None or self._preprocessed[0] != preprocess:
            transforms = _preprocessing(preprocess, self.xt)
            self._preprocessed = preprocess, transforms, transformed(transforms, self.xt)
        return self._preprocessed[1:]

    def _principal_axes(self, preprocess: str, x: Array) -> Any:
        if self._axes is None or self._axes[0] != preprocess:
            axes: Any = faiss.PCAMatrix(x.shape[1], min(x.shape))  # all there are
            axes.train(x)
            self._axes = preprocess, axes
        return self._axes[1]


def transformed(transforms: list[Any], x: Array) -> Array:
    """Features x (n, F) after trained transforms."""
    for transform in transforms:
        x = transform.apply(x)
    return x


def finite_features(x: Array) -> Array:
    """Features as FAISS takes them, float32 (n, F); raises ValueError for another shape, NaN or infinite values."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"features {x.shape}: want (n, F), finite: look for NaN, infinite or missing rows")
    return x


def _preprocessing(preprocess: str, xt: Array) -> list[Any]:
    F = xt.shape[1]
    transforms: list[Any] = []
    if "centred" in preprocess:
        transforms.append(faiss.CenteringTransform(F))
        transforms[0].train(xt)
    if "standardised" in preprocess:
        transforms.append(_standardize(xt))
    if "normalised" in preprocess:
        transforms.append(faiss.NormalizationTransform(F, 2.0))
    return transforms


def _standardize(xt: Array) -> Any:
    """Zero mean and unit variance of each feature, as the learned model standardises them."""
    std = xt.std(axis=0)
    scale = 1 / np.maximum(std, max(STD_FLOOR * std.mean(), 1e-6))
    transform: Any = faiss.LinearTransform(xt.shape[1], xt.shape[1], True)
    faiss.copy_array_to_vector(np.diag(scale).astype(np.float32).ravel(), transform.A)
    faiss.copy_array_to_vector((-xt.mean(axis=0) * scale).astype(np.float32), transform.b)
    transform.is_trained = True
    return transform


def _reduction(axes: Any, reduce: str, width: int) -> Any:
    """The first `width` of trained principal axes; rotated at random by `PCAR`, of equal variance by `PCAW`."""
    pca: Any = faiss.PCAMatrix(axes.d_in, width, -0.5 if reduce == "PCAW" else 0.0, reduce == "PCAR")
    pca.mean, pca.eigenvalues, pca.PCAMat = axes.mean, axes.eigenvalues, axes.PCAMat
    if reduce == "PCAW":
        pca.epsilon = WHITEN_FLOOR * float(faiss.vector_to_array(axes.eigenvalues).sum())
    pca.prepare_Ab()
    pca.is_trained = True
    return pca
