"""What every objective has: groups with their own rates, an optimizer, counts of codewords, a state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.objective import Objective

FEATURES = ModelConfig(backbone="features", weights="none", feature_dim=10, hidden=12, D=8, M=2, nbits=4)
NETWORK = replace(FEATURES, backbone="shufflenet_v2_x0_5", feature_dim=None, image_size=32, trainable_layers=2)


def objective_of(model: ModelConfig = FEATURES, **settings: object) -> Objective:
    torch.manual_seed(0)
    return Objective(MeCoQ(model), TrainConfig(**settings))  # type: ignore[arg-type]


def test_groups_have_their_own_rates_and_codebooks_no_decay() -> None:
    settings = {"lr": 0.1, "backbone_lr_scale": 0.5, "codebook_lr_scale": 3.0, "weight_decay": 0.2}
    groups = objective_of(NETWORK, **settings).parameter_groups()
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in groups}
    assert found == {
        "backbone": (pytest.approx(0.05), 0.2), "projection": (0.1, 0.2), "codebooks": (pytest.approx(0.3), 0.0),
    }  # fmt: skip


def test_what_is_frozen_has_no_group() -> None:
    frozen = objective_of(replace(FEATURES, freeze_codebooks=True))
    assert [group["name"] for group in frozen.parameter_groups()] == ["projection"]


def test_of_codes_that_preserve_a_metric_the_additive_codebooks_learn() -> None:
    objective = objective_of(replace(FEATURES, codes="additive", metric="ip"))
    [codebooks] = [group["params"] for group in objective.parameter_groups() if group["name"] == "codebooks"]
    assert objective.model.additive is not None
    assert [id(p) for p in codebooks] == [id(objective.model.additive.codebooks)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_decay_by_effect(optimizer: str) -> None:
    objective = objective_of(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    for p in objective.parameters():
        p.grad = torch.zeros_like(p)
    weight, codebooks = objective.model.projection[0].weight, objective.model.quantizer.codebooks  # type: ignore[index]
    norm, before = weight.norm().item(), codebooks.detach().clone()
    objective.optimizer().step()
    assert weight.norm().item() < 0.99 * norm and torch.equal(codebooks, before)


def test_the_codewords_of_an_epoch_are_counted() -> None:
    objective = objective_of()
    objective.count(torch.tensor([[0, 5], [0, 6], [3, 5]]))
    objective.count(torch.tensor([[0, 15]]))
    assert objective.counts.tolist() == [[3, 0, 0, 1] + [0] * 12, [0] * 5 + [2, 1] + [0] * 8 + [1]]
    assert objective.end_epoch() == {"codeword_usage": pytest.approx((2 + 3) / 32)}
    assert not objective.counts.any()


def test_the_state_is_all_but_a_frozen_backbone() -> None:
    frozen, learning = objective_of(replace(NETWORK, trainable_layers=0)), objective_of(NETWORK)
    assert {"counts", "model.quantizer.codebooks"} < frozen.training_state().keys()
    assert not any("backbone" in name for name in frozen.training_state())
    assert learning.training_state().keys() == learning.state_dict().keys()
