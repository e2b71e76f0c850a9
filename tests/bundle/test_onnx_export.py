"""Graphs of small models against the models: every kind of query, any batch; what has no graph."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig, TorchEncoder, VerificationError, load_encoder, register_backbone
from mecoq_faiss.bundle import onnx_export
from mecoq_faiss.bundle.onnx_export import onnx_difference, write_onnx
from mecoq_faiss.model import Standardize

KINDS: dict[str, dict[str, Any]] = {
    "features": {"backbone": "features", "feature_dim": 12},
    "additive": {"backbone": "pixels", "image_size": 6, "codes": "additive"},
    "l2": {"backbone": "features", "feature_dim": 12, "codes": "additive", "metric": "l2"},
    "folded": {"backbone": "resnet18", "image_size": 32, "projection": "linear"},
}


def encoder(*, seed: int = 0, **settings: Any) -> TorchEncoder:
    torch.manual_seed(seed)
    model = MeCoQ(ModelConfig(weights="none", D=16, M=4, hidden=32, **settings))
    if isinstance(model.standardize, Standardize):
        model.standardize.fit(torch.randn(50, model.backbone.feature_dim) * 3 + 1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    if model.additive is not None:
        model.additive.set_codebooks(torch.randn_like(model.additive.codebooks))
    return TorchEncoder(model, "cpu")


@pytest.mark.parametrize("kind", ["additive", "l2", "folded"])
def test_the_graph_gives_the_queries_of_the_model_for_any_batch(kind: str, tmp_path: Path) -> None:
    of_model, path = encoder(**KINDS[kind]), tmp_path / "encoder.onnx"
    assert write_onnx(of_model, path) < 1e-4
    of_graph = load_encoder(path, runtime="onnx")
    assert (of_graph.shape, of_graph.d, of_graph.is_additive) == (of_model.shape, of_model.d, of_model.is_additive)
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for b in (0, 1, 3, 40):
        x: Any = rng.normal(size=(b, *of_model.shape)).astype(np.float32)
        x = x if of_model.takes_features else rng.integers(0, 256, x.shape, dtype=np.uint8)
        expected = of_model.encode_batch(x)
        for found in (of_graph.encode_batch(x), plain.run(["queries"], {"batch": x})[0]):
            assert found.shape == (b, of_model.d) and found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max(initial=0)))


class Undecided(torch.nn.Module):
    """Its way depends on the images."""

    feature_dim = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.mean(dim=(2, 3))
        return x if x.sum() > 1 else -x


def test_a_network_without_a_graph_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    register_backbone("undecided", Undecided)
    with pytest.raises(ValueError, match=r"^backbone undecided cannot be written as an ONNX graph \(.*runtime='torch'"):
        write_onnx(encoder(backbone="undecided", image_size=6), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")
    assert logging.getLogger("torch").isEnabledFor(logging.ERROR)


def test_a_graph_that_computes_something_else_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = encoder(seed=1, **KINDS["features"])
    graph = onnx_export._graph(other)
    monkeypatch.setattr(onnx_export, "_graph", lambda encoder: graph)
    with pytest.raises(VerificationError, match="its queries differ by"):
        write_onnx(encoder(**KINDS["features"]), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(VerificationError, match=r"takes \(12,\), not \(5,\)"):
        onnx_difference(other, encoder(backbone="features", feature_dim=5))


def test_what_exporting_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("onnx", "not_there"))
    with pytest.raises(ImportError, match=r"needs not_there: pip install 'mecoq-faiss\[onnx-export\]'"):
        write_onnx(encoder(**KINDS["features"]), tmp_path / "encoder.onnx")
