"""Settings: bounds and types."""

from __future__ import annotations

import dataclasses

import pytest

from mecoq_faiss.config import ModelConfig, TrainConfig, code_shape, make_configs
from mecoq_faiss.config_file import to_json


def refused(cls, text: str, settings: dict) -> None:
    with pytest.raises(ValueError) as error:
        cls(**settings)
    message = str(error.value)
    name, value = next(iter(settings.items()))
    assert message.startswith(name) and text in message and "\n" not in message
    assert isinstance(value, tuple) or str(value) in message


# Bounds and types


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nbits": 6}, "nbits=6: choose 8"),
        ({"M": 3, "nbits": 4, "D": 33}, "whole bytes, choose an even M"),
        ({"M": 0}, "M=0 must be at least 1"),
        ({"D": 0}, "at least 1"),
        ({"D": 30, "M": 4}, "D=30 is not divisible by M=4: choose a multiple, for example 32"),
        ({"image_size": 0}, "at least 1"),
        ({"hidden": 0}, "at least 1"),
        ({"feature_dim": 0}, "at least 1"),
        ({"feature_dim": "512"}, "of type int"),
        ({"trainable_layers": -2}, "at least -1"),
        ({"projection": "deep"}, "'deep': choose one of linear, mlp"),
        ({"alpha": 0.0}, "must be positive"),
        ({"alpha": float("nan")}, "finite"),
        ({"D": 32.0}, "of type int"),
        ({"D": True}, "of type int"),
        ({"backbone": 5}, "of type str"),
        ({"freeze_codebooks": 1}, "of type bool"),
        ({"D": 2**63}, "below 2**63"),
        ({"M": -(2**64)}, "below 2**63"),
        ({"alpha": 2**63}, "below 2**63"),
        ({"image_size": 2**13 + 1}, "at most 8192"),
        *(({name: 2**20 + 1}, "at most 1048576") for name in ("hidden", "D", "M")),
        ({"hidden": 2**20, "D": 2**12}, "more than 2,147,483,648 weights"),
    ],
)
def test_model_bounds(settings, text):
    refused(ModelConfig, text, settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        *(({name: 0}, "at least 1") for name in ("epochs", "memory_start_epoch")),
        *(({name: 1}, "at least 2") for name in ("batch_size", "cached_views")),
        *(({name: -1}, "at least 0") for name in ("warmup_epochs", "memory_size", "polish_rounds", "seed")),
        *(({name: -0.1}, "at least 0") for name in ("weight_decay", "diversity_weight", "entropy_weight")),
        *(({name: -0.1}, "at least 0") for name in ("backbone_lr_scale", "codebook_lr_scale", "final_lr_scale")),
        *(({name: 0.0}, "must be positive") for name in ("lr", "temperature")),
        *(({name: 1.0}, "[0, 1)") for name in ("momentum", "positive_prior", "feature_dropout")),
        *(({name: -0.1}, "[0, 1)") for name in ("momentum", "positive_prior", "feature_dropout")),
        *(({name: 1.1}, "choose 0 to 1") for name in ("asymmetric_share", "flip", "jitter_p", "gray", "blur")),
        *(({name: -0.1}, "choose 0 to 1") for name in ("asymmetric_share", "flip", "jitter_p", "gray", "blur")),
        ({"workers": -2}, "at least -1"),
        ({"seed": 2**63}, "below 2**63"),
        ({"optimizer": "lamb"}, "choose one of adam, sgd"),
        ({"memory_kind": "big"}, "choose one of soft, feature, hard"),
        ({"codebook_init": "zero"}, "choose one of random, data"),
        ({"precision": "fp8"}, "choose one of auto, float32, bf16"),
        ({"crop_scale": (0.0, 1.0)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.9, 0.5)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.5, 1.1)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.5,)}, "must be 2 numbers"),
        ({"crop_scale": 0.5}, "must be 2 numbers"),
        ({"crop_scale": ("a", "b")}, "of type float"),
        ({"jitter": (0.4, 0.4, 0.4)}, "must be 4 numbers"),
        ({"jitter": (1.4, 0.4, 0.4, 0.1)}, "in 0 to 1"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue in 0 to 0.5"),
        ({"jitter": (0.4, 0.4, 0.4, float("nan"))}, "finite"),
        ({"lr": float("inf")}, "finite"),
        ({"lr": "1e-3"}, "of type float"),
        ({"view_cache": "no"}, "of type bool"),
        ({"lr": 2**63}, "below 2**63"),
        ({"workers": 4097}, "at most 4096"),
        *(({name: 2**31}, "at most 2147483647") for name in ("epochs", "batch_size", "memory_size", "cached_views")),
    ],
)
def test_train_bounds(settings, text):
    refused(TrainConfig, text, settings)


def test_values_at_the_bounds_are_taken():
    ModelConfig(D=1, M=1, hidden=1, image_size=1, trainable_layers=-1, feature_dim=1)
    TrainConfig(epochs=1, batch_size=2, memory_size=0, seed=2**63 - 1, flip=0, blur=1, crop_scale=(1, 1), workers=-1)
    TrainConfig(jitter=(0, 1, 1, 0.5), momentum=0, positive_prior=0, final_lr_scale=0, warmup_epochs=0)


def test_whole_numbers_and_lists_become_what_is_meant():
    c = TrainConfig(lr=1, crop_scale=[1, 1], jitter=[0, 0, 0, 0])  # as JSON and TOML give them
    assert type(c.lr) is float and c.crop_scale == (1.0, 1.0) and c.jitter == (0.0,) * 4
    assert all(type(part) is float for part in (*c.crop_scale, *c.jitter))
    assert to_json(ModelConfig(), c) == to_json(
        ModelConfig(), TrainConfig(lr=1.0, crop_scale=(1.0, 1.0), jitter=(0.0,) * 4)
    )


def test_zero_chooses():
    assert (TrainConfig().batch_size, TrainConfig().cached_views) == (0, 0)


def test_configurations_are_frozen_and_know_their_bits():
    c = ModelConfig(D=64, M=16, nbits=4)
    assert (c.K, c.bits) == (16, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.D = 32


def test_code_shape():
    assert [code_shape(*shape) for shape in ((16, 8), (32, 4), (64, 8))] == [2, 8, 8]
    for bits, nbits in ((12, 8), (0, 8), (-8, 8), (36, 4), (32, 6)):
        with pytest.raises(ValueError, match="choose"):
            code_shape(bits, nbits)


def test_unknown_settings_have_suggestions():
    with pytest.raises(ValueError, match="unknown setting 'temprature': did you mean temperature"):
        make_configs(temprature=0.4)
