"""After the last epoch: additive codebooks are fitted, product ones polished where that is asked, frozen ones left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.codebooks import finish_codebooks
from mecoq_faiss.training.pairs import CachedPairs

PRODUCT = ModelConfig(backbone="features", weights="none", feature_dim=10, hidden=12, D=8, M=2, nbits=4)


@pytest.mark.parametrize(
    ("config", "rounds", "changed"),
    [
        (PRODUCT, 0, []),
        (PRODUCT, 3, ["quantizer.codebooks"]),
        (replace(PRODUCT, freeze_codebooks=True), 3, []),
        (replace(PRODUCT, codes="additive"), 0, ["additive.codebooks"]),
        (replace(PRODUCT, codes="additive"), 3, ["additive.codebooks"]),
    ],
)
def test_only_the_codebooks_that_are_meant_change(
    config: ModelConfig, rounds: int, changed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = MeCoQ(config)
    views = np.random.default_rng(0).normal(size=(60, 3, 10)).astype(np.float16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    caplog.set_level("INFO", "mecoq_faiss")
    finish_codebooks(model, CachedPairs(views, 8, 0, "cpu"), TrainConfig(polish_rounds=rounds))
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])] == changed
    said = ["fitting 2 additive codebooks of 16 codewords"] if config.codes == "additive" else []
    assert caplog.messages == said
